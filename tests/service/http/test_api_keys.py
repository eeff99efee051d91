"""The file of API keys, and what a request's header allows."""

import asyncio
import errno
import logging
import os
from pathlib import Path

import pytest

from service.errors import ForbiddenError, UnauthorizedError
from service.http.api_keys import ApiKeys
from service.key_changes import add_key, remove_key
from service.key_file import ApiKeysError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path whose file and directory do not exist."""
    return tmp_path / "config" / "keys.json"


def bearer(secret: str) -> str:
    return f"Bearer {secret}"


def test_loaded_keys_are_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The number of keys per scope is logged at startup and after each change."""
    caplog.set_level(logging.INFO)
    keys = ApiKeys(path)
    for name, scopes in (("deploy", ["manage"]), ("app", ["predict", "manage"])):
        add_key(path, name, scopes)  # type: ignore[arg-type]
        for _ in range(2 if name == "deploy" else 0):
            keys.check(None, "predict")
    ApiKeys(path)
    assert [message.partition(" keys=")[2] for message in caplog.messages] == [
        "0 predict=everyone manage=nobody metrics=everyone",
        "1 predict=everyone manage=1 metrics=everyone",
        "2 predict=1 manage=2 metrics=everyone",
    ]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_that_others_can_write_is_rejected(
    path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With a file that others can write to, a start fails and a running service keeps its keys."""
    secret = add_key(path, "app", ["predict"])
    keys = ApiKeys(path)
    path.chmod(mode)
    with pytest.raises(ApiKeysError, match="chmod go-w"):
        ApiKeys(path)
    path.write_text('{"keys": []}')
    assert keys.check(bearer(secret), "predict") == "app"
    assert "chmod go-w" in caplog.text
    path.chmod(0o600)
    assert keys.check(None, "predict") is None


def test_without_keys_everyone_predicts_and_nobody_manages(path: Path) -> None:
    """Without keys, predicting needs none and managing is disabled."""
    keys = ApiKeys(path)
    for authorization in (None, bearer("resident_guess")):
        assert keys.check(authorization, "predict") is None
        with pytest.raises(ForbiddenError, match="keys add NAME --scope manage") as caught:
            keys.check(authorization, "manage")
        assert caught.value.code == "management_disabled"


def test_key_allows_only_its_scopes(path: Path) -> None:
    """A key without the scope gets insufficient_scope, and one with both scopes may do both."""
    predict, manage = add_key(path, "app", ["predict"]), add_key(path, "deploy", ["manage"])
    both = add_key(path, "owner", ["manage", "predict"])
    keys = ApiKeys(path)
    assert keys.check(bearer(predict), "predict") == "app"
    assert keys.check(bearer(manage), "manage") == "deploy"
    assert keys.check(bearer(both), "predict") == keys.check(bearer(both), "manage") == "owner"
    for secret, scope in ((predict, "manage"), (manage, "predict")):
        with pytest.raises(ForbiddenError) as caught:
            keys.check(bearer(secret), scope)  # type: ignore[arg-type]
        assert caught.value.code == "insufficient_scope"
        assert secret not in str(caught.value)


def test_manage_key_alone_leaves_predicting_open(path: Path) -> None:
    """Predicting needs a key only if there is one with the scope predict."""
    add_key(path, "deploy", ["manage"])
    assert ApiKeys(path).check(None, "predict") is None


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic {}",
        "{}",
        "Bearer {}x",
        "Bearer x{}",
        "Bearer resident_",
        "Bearer \x00\xff",
        "Token {}",
    ],
)
def test_missing_and_wrong_keys_are_rejected(path: Path, header: str | None) -> None:
    """A missing or wrong key gets 401 with WWW-Authenticate and without the key in the answer."""
    secret = add_key(path, "app", ["predict", "manage"])
    given = header.format(secret) if header else header
    for scope in ("predict", "manage"):
        with pytest.raises(UnauthorizedError) as caught:
            ApiKeys(path).check(given, scope)  # type: ignore[arg-type]
        assert caught.value.headers["WWW-Authenticate"].startswith('Bearer realm="resident"')
        assert secret not in str(caught.value)


def test_scheme_is_case_insensitive(path: Path) -> None:
    """The scheme is case-insensitive (RFC 9110), the key is not."""
    secret = add_key(path, "app", ["predict"])
    assert ApiKeys(path).check(f"bearer  {secret} ", "predict") == "app"
    with pytest.raises(UnauthorizedError):
        ApiKeys(path).check(bearer(secret.upper()), "predict")


def test_change_applies_immediately(path: Path) -> None:
    """A key works from its creation to its removal, without a restart."""
    keys = ApiKeys(path)
    secret = add_key(path, "deploy", ["manage"])
    assert keys.check(bearer(secret), "manage") == "deploy"
    add_key(path, "other", ["manage"])
    remove_key(path, "deploy")
    with pytest.raises(UnauthorizedError):
        keys.check(bearer(secret), "manage")


@pytest.mark.parametrize("mistake", ["gone", "damaged"])
def test_deleted_or_damaged_file_keeps_the_old_keys(
    path: Path, mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A deleted or damaged file is logged once, and the old keys stay until it is valid again."""
    secret = add_key(path, "app", ["predict"])
    keys = ApiKeys(path)
    sound = path.read_bytes()
    path.unlink() if mistake == "gone" else path.write_bytes(sound[:-20])
    for _ in range(3):
        assert keys.check(bearer(secret), "predict") == "app"
        with pytest.raises(UnauthorizedError):
            keys.check(None, "predict")
    assert [record.levelno for record in caplog.records if record.levelno > logging.INFO] == [
        logging.ERROR
    ]
    assert secret not in caplog.text
    path.write_bytes(sound)
    assert keys.check(bearer(secret), "predict") == "app"
    path.unlink() if mistake == "gone" else path.write_bytes(sound[:-20])
    assert keys.check(bearer(secret), "predict") == "app"
    assert len([record for record in caplog.records if record.levelno > logging.INFO]) == 2
    path.write_bytes(sound)
    remove_key(path, "app")
    assert keys.check(None, "predict") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b'{"keys": [{}]}',
        b'{"schema_version": 2}',
        b'{"more": 1}',
        b"x" * 1_100_000,
        b"\xff\xfe",
    ],
)
def test_damaged_file_is_an_error(path: Path, content: bytes) -> None:
    """Neither a service nor a command accepts or overwrites a damaged file."""
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ApiKeysError, match=r"keys\.json"):
        ApiKeys(path)
    with pytest.raises(ApiKeysError, match=r"keys\.json"):
        add_key(path, "deploy", ["manage"])
    assert path.read_bytes() == content


def test_directory_in_place_of_the_file_is_an_error(path: Path) -> None:
    """A path that cannot be opened is an error, not an empty file."""
    path.mkdir(parents=True)
    with pytest.raises(ApiKeysError, match=r"keys\.json"):
        ApiKeys(path)


def test_file_deleted_between_stat_and_read_keeps_the_old_keys(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is deleted between stat and read keeps the old keys."""
    secret = add_key(path, "app", ["predict"])
    keys = ApiKeys(path)
    path.unlink()
    monkeypatch.setattr("service.http.api_keys._file_stamp", lambda _: (1, 2, 3))
    with pytest.raises(UnauthorizedError):
        keys.check(None, "predict")
    assert keys.check(bearer(secret), "predict") == "app"


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM])
def test_revoked_key_is_rejected_after_a_transient_read_error(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """A change that could not be read is read at the next check, although the file is the same."""
    secret = add_key(path, "leaver", ["predict"])
    add_key(path, "app", ["predict"])
    keys = ApiKeys(path)
    remove_key(path, "leaver")

    def fail(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr("service.key_file.open_regular", fail)
        for _ in range(2):
            assert keys.check(bearer(secret), "predict") == "leaver"
    with pytest.raises(UnauthorizedError):
        keys.check(bearer(secret), "predict")


def test_required_file_must_exist(path: Path) -> None:
    """A missing file is an error if it is required, and an existing one without keys is not."""
    with pytest.raises(ApiKeysError, match=r"keys --keys .* add NAME") as caught:
        ApiKeys(path, required=True)
    assert str(path) in str(caught.value)
    add_key(path, "app", ["predict"])
    remove_key(path, "app")
    assert ApiKeys(path, required=True).check(None, "predict") is None


def test_directory_of_the_file_may_be_a_link(path: Path, tmp_path: Path) -> None:
    """The container image links the default directory to its volume, and Kubernetes links files."""
    volume = tmp_path / "volume"
    volume.mkdir()
    path.parent.symlink_to(volume)
    secret = add_key(path, "app", ["predict"])
    (tmp_path / "link.json").symlink_to(path)
    for file in (volume / "keys.json", path, tmp_path / "link.json"):
        assert ApiKeys(file, required=True).check(bearer(secret), "predict") == "app"


def test_pipe_in_place_of_the_file_is_an_error(path: Path) -> None:
    """A FIFO is rejected at once; opening it would wait for a writer."""
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(ApiKeysError, match="regular file"):
        ApiKeys(path)


@pytest.mark.anyio
async def test_file_is_looked_at_once_per_turn_of_the_event_loop(path: Path) -> None:
    """A revoked key works until the end of the turn in which it was checked."""
    secret = add_key(path, "leaver", ["predict"])
    add_key(path, "app", ["predict"])
    keys = ApiKeys(path)
    for _ in range(2):
        assert keys.check(bearer(secret), "predict") == "leaver"
        await asyncio.sleep(0)
    assert keys.check(bearer(secret), "predict") == "leaver"
    remove_key(path, "leaver")
    assert keys.check(bearer(secret), "predict") == "leaver"
    await asyncio.sleep(0)
    with pytest.raises(UnauthorizedError):
        keys.check(bearer(secret), "predict")


def test_challenge_tells_what_is_wrong_with_the_key(path: Path) -> None:
    """RFC 6750, section 3.1: no code if there was no key."""
    secret = add_key(path, "app", ["predict"])
    add_key(path, "deploy", ["manage"])
    keys = ApiKeys(path)
    for header, scope, challenge in (
        (None, "predict", 'Bearer realm="resident"'),
        (bearer("guess"), "predict", 'Bearer realm="resident", error="invalid_token"'),
        (bearer(secret), "manage", 'Bearer realm="resident", error="insufficient_scope"'),
    ):
        with pytest.raises((UnauthorizedError, ForbiddenError)) as caught:
            keys.check(header, scope)  # type: ignore[arg-type]
        assert caught.value.headers["WWW-Authenticate"] == challenge
