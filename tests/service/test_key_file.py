"""The file of API keys: what it holds, who may write it, and changes that fail."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from unprivileged import unprivileged

from model_store.files import DirectoryLock
from service.http.api_keys import ApiKeys
from service.key_changes import KeyNameError, add_key, remove_key
from service.key_file import ApiKeysError, default_key_file, read_keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path whose file and directory do not exist."""
    return tmp_path / "config" / "keys.json"


def test_only_the_hash_of_a_key_is_stored(path: Path) -> None:
    """The file holds the hash of a key and is readable by its owner alone."""
    secret = add_key(path, "deploy", ["manage"])
    assert len(secret) > 43
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]
    (key,) = read_keys(path)
    assert (key.name, key.scopes) == ("deploy", ("manage",))
    assert add_key(path, "other", ["manage"]) != secret


def test_names_are_unique(path: Path) -> None:
    """Adding a taken name or removing an unknown one raises KeyNameError and changes nothing."""
    add_key(path, "deploy", ["manage"])
    before = path.read_bytes()
    with pytest.raises(KeyNameError, match="deploy"):
        add_key(path, "deploy", ["predict"])
    with pytest.raises(KeyNameError, match=r"absent.*deploy"):
        remove_key(path, "absent")
    assert path.read_bytes() == before
    remove_key(path, "deploy")
    assert read_keys(path) == ()


def test_removing_the_last_predict_key_is_reported(path: Path) -> None:
    """remove_key returns True only if everyone may predict afterwards."""
    for name, scope in (("app", "predict"), ("deploy", "manage"), ("other", "predict")):
        add_key(path, name, [scope])  # type: ignore[list-item]
    assert [remove_key(path, name) for name in ("app", "other", "deploy")] == [False, True, False]


def test_file_of_another_user_is_rejected(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another user is rejected, and one of root is accepted."""
    add_key(path, "app", ["predict"])
    owner = path.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    if owner == 0:
        assert len(read_keys(path)) == 1
        os.chown(path, 12345, 12345)
    for trust_any_owner in (False, True):
        with pytest.raises(ApiKeysError, match="another user"):
            read_keys(path, trust_any_owner=trust_any_owner)
    with pytest.raises(ApiKeysError, match="another user"):
        add_key(path, "deploy", ["manage"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has other users' files")
@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_root_changes_another_users_keys_and_keeps_their_owner(path: Path, mode: int) -> None:
    """Owner, group and mode stay, and root's own service rejects the file."""
    add_key(path, "app", ["predict"])
    path.chmod(mode)
    os.chown(path, 12345, 23456)
    add_key(path, "deploy", ["manage"])
    assert remove_key(path, "app")
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 23456, mode)
    assert [key.name for key in read_keys(path, trust_any_owner=True)] == ["deploy"]
    with pytest.raises(ApiKeysError, match="another user"):
        ApiKeys(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for other users")
def test_root_creates_keys_for_the_owner_of_the_directory(path: Path) -> None:
    """A file that root creates belongs to the owner of its directory."""
    path.parent.mkdir()
    os.chown(path.parent, 12345, 23456)
    add_key(path, "deploy", ["manage"])
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 23456, 0o600)


def test_mode_of_the_file_is_kept(path: Path) -> None:
    """A change keeps the mode of the file."""
    add_key(path, "app", ["predict"])
    path.chmod(0o640)
    add_key(path, "deploy", ["manage"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make a file of a group that it is not in"
)
def test_change_that_would_lose_the_group_is_rejected(path: Path) -> None:
    """A change that cannot keep the file's group is rejected and leaves nothing behind."""
    add_key(path, "app", ["predict"])
    os.chown(path, -1, 23456)
    before = path.read_bytes()
    with (
        unprivileged(),
        pytest.raises(ApiKeysError, match="root"),
    ):
        add_key(path, "deploy", ["manage"])
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]
    assert path.read_bytes() == before


def test_unknown_scopes_are_rejected(path: Path) -> None:
    """A file with an unknown scope is rejected."""
    add_key(path, "deploy", ["manage"])
    document = json.loads(path.read_bytes())
    document["keys"][0]["scopes"] = ["everything"]
    path.write_text(json.dumps(document))
    with pytest.raises(ApiKeysError, match="scopes"):
        read_keys(path)


def test_default_file_is_in_the_users_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CONFIG_HOME wins over ~/.config."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere")
    assert default_key_file() == Path("/somewhere/resident/keys.json")
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_key_file() == Path("/home/ada/.config/resident/keys.json")


@pytest.mark.parametrize("exclusive", [True, False])
def test_keys_are_not_changed_by_two_processes_at_once(path: Path, exclusive: bool) -> None:
    """The second one is told to try again, and may once the first is done."""
    add_key(path, "app", ["predict"])
    lock = DirectoryLock(path.parent, exclusive=exclusive)
    with pytest.raises(ApiKeysError, match="another process"):
        add_key(path, "deploy", ["manage"])
    lock.release()
    for _ in range(2):  # a change that fails releases it, too
        with pytest.raises(KeyNameError):
            remove_key(path, "absent")
    remove_key(path, "app")
    assert read_keys(path) == ()


def test_directory_that_cannot_be_made_is_an_error(path: Path) -> None:
    """For instance because a file has its name."""
    path.parent.write_text("")
    with pytest.raises(ApiKeysError, match=r"keys\.json"):
        add_key(path, "app", ["predict"])
    assert path.parent.read_text() == ""


def test_home_directory_that_is_unknown_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No directory named ~ is made, although one with that name elsewhere is allowed."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ApiKeysError, match="SERVICE_KEYS"):
        add_key(Path("~/config/keys.json"), "app", ["predict"])
    assert list(tmp_path.iterdir()) == []
    add_key(tmp_path / "~" / "keys.json", "app", ["predict"])


def test_full_disk_leaves_the_keys_as_they_were(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change is reported as failed."""
    add_key(path, "app", ["predict"])
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(ApiKeysError, match=os.strerror(errno.ENOSPC)):
            add_key(path, "deploy", ["manage"])
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]


def test_scopes_of_a_key_are_stored_once(path: Path) -> None:
    """In one order, whichever they were given in."""
    add_key(path, "app", ["predict", "manage", "predict"])
    (key,) = read_keys(path)
    assert key.scopes == ("manage", "predict")


def test_file_may_hold_many_keys(path: Path) -> None:
    """Each is found."""
    secrets = [add_key(path, f"app{number}", ["predict"]) for number in range(40)]
    keys = ApiKeys(path)
    names = [keys.check(f"Bearer {secret}", "predict") for secret in secrets]
    assert names == [f"app{number}" for number in range(40)]
