"""Keys that expire, rotate, have a limit of requests, and remember their last use."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from asgi_application import started
from colour_model import plain
from http_problems import check_problem
from prometheus_client import CollectorRegistry

from model_store.store import ModelStore
from service.errors import OverloadedError, UnauthorizedError
from service.http.api_keys import ApiKeys
from service.http.key_usage import WRITE_SECONDS, KeyCollector
from service.key_changes import KeyNameError, add_key, remove_key, rotate_key
from service.key_file import last_used_directory, read_keys

DAY = timedelta(days=1)
RED = plain("red")


class Clock:
    """Replaces `time.time` and `time.monotonic`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        for name in ("time", "monotonic"):
            real = getattr(time, name)
            patch.setattr(time, name, lambda real=real: real() + self.ahead)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "keys.json"


def bearer(secret: str) -> str:
    return f"Bearer {secret}"


def test_key_ends_at_its_expiry_and_opens_nothing(path: Path, clock: Clock) -> None:
    """After the only key has expired, predictions still need a key."""
    secret = add_key(path, "app", ["predict", "metrics"], expires_in=DAY)
    keys = ApiKeys(path)
    clock.ahead = DAY.total_seconds() - 60
    assert keys.check(bearer(secret), "predict") == "app"
    clock.ahead = DAY.total_seconds() + 1
    for scope in ("predict", "metrics"):
        with pytest.raises(UnauthorizedError, match="expired") as caught:
            keys.check(bearer(secret), scope)  # type: ignore[arg-type]
        assert 'error="invalid_token"' in caught.value.headers["WWW-Authenticate"]
        with pytest.raises(UnauthorizedError):
            keys.check(None, scope)  # type: ignore[arg-type]
        with pytest.raises(UnauthorizedError):
            ApiKeys(path).check(None, scope)  # type: ignore[arg-type]


def test_rotation_overlaps(path: Path, clock: Clock) -> None:
    """Both secrets work for the overlap, under the same name and scopes; an older one does not."""
    first = add_key(path, "app", ["predict"], requests_per_second=1000)
    keys = ApiKeys(path)
    second = rotate_key(path, "app", overlap=DAY)
    assert [keys.check(bearer(secret), "predict") for secret in (first, second)] == ["app", "app"]
    third = rotate_key(path, "app", overlap=DAY)
    assert [keys.check(bearer(secret), "predict") for secret in (second, third)] == ["app", "app"]
    with pytest.raises(UnauthorizedError):
        keys.check(bearer(first), "predict")
    clock.ahead = DAY.total_seconds() + 1
    with pytest.raises(UnauthorizedError, match="expired"):
        keys.check(bearer(second), "predict")
    assert keys.check(bearer(third), "predict") == "app"
    (stored,) = read_keys(path)
    assert (stored.scopes, stored.requests_per_second) == (("predict",), 1000)
    fourth = rotate_key(path, "app", overlap=timedelta(0))
    with pytest.raises(UnauthorizedError):
        keys.check(bearer(third), "predict")
    assert keys.check(bearer(fourth), "predict") == "app"


def test_rotation_renews_an_expired_key_only_with_a_new_lifetime(path: Path) -> None:
    """The previous secret never outlives the key."""
    secret = add_key(path, "app", ["predict"], expires_in=timedelta(0))
    with pytest.raises(KeyNameError, match="expires-in"):
        rotate_key(path, "app", overlap=DAY)
    with pytest.raises(KeyNameError, match="app"):
        rotate_key(path, "absent", overlap=DAY)
    renewed = rotate_key(path, "app", overlap=DAY, expires_in=DAY)
    keys = ApiKeys(path)
    assert keys.check(bearer(renewed), "predict") == "app"
    with pytest.raises(UnauthorizedError):
        keys.check(bearer(secret), "predict")


def test_limit_of_a_key_is_its_own(path: Path, clock: Clock) -> None:
    """A burst of one second passes, then 429 says when to retry; other keys are not limited."""
    limited = add_key(path, "batch", ["predict"], requests_per_second=2)
    free = add_key(path, "app", ["predict"])
    keys = ApiKeys(path)
    clock.ahead = 10  # time alone does not save up more than a burst
    for _ in range(2):
        keys.check(bearer(limited), "predict")
    with pytest.raises(OverloadedError) as caught:
        keys.check(bearer(limited), "predict")
    assert (caught.value.code, caught.value.headers) == ("rate_limited", {"Retry-After": "1"})
    rotated = rotate_key(path, "batch", overlap=DAY)
    add_key(path, "other", ["predict"])
    with pytest.raises(OverloadedError):  # another secret or key does not reset it
        keys.check(bearer(rotated), "predict")
    for _ in range(100):
        keys.check(bearer(free), "predict")
    clock.ahead += 1
    assert keys.check(bearer(limited), "predict") == "batch"


def test_slow_limit_says_how_long_to_wait(path: Path) -> None:
    secret = add_key(path, "nightly", ["predict"], requests_per_second=1 / 60)
    keys = ApiKeys(path)
    keys.check(bearer(secret), "predict")
    with pytest.raises(OverloadedError) as caught:
        keys.check(bearer(secret), "predict")
    assert 59 <= int(caught.value.headers["Retry-After"]) <= 60


def test_last_use_is_kept_in_a_file_and_in_the_metrics(path: Path, clock: Clock) -> None:
    """The file is written once a minute at most; a refused request is no use."""
    used, unused = add_key(path, "app", ["predict"]), add_key(path, "idle", ["predict"])
    keys = ApiKeys(path)
    keys.check(bearer(used), "predict")
    for _ in range(2):
        with pytest.raises(UnauthorizedError):
            keys.check(bearer(unused + "x"), "predict")
    (file,) = last_used_directory(path).iterdir()
    os.utime(file, (0, 0))
    keys.check(bearer(used), "predict")
    assert file.stat().st_mtime == 0
    clock.ahead = WRITE_SECONDS + 1
    keys.check(bearer(used), "predict")
    assert file.stat().st_mtime > 0
    registry = CollectorRegistry()
    registry.register(KeyCollector(lambda: keys.keys, keys.last_used))
    name = "resident_key_last_used_timestamp_seconds"
    assert registry.get_sample_value(name, {"key": "app"}) == pytest.approx(time.time(), abs=60)
    assert registry.get_sample_value(name, {"key": "idle"}) is None
    remove_key(path, "app")
    assert not file.exists()


def test_mounted_secret_is_followed(tmp_path: Path) -> None:
    """As Kubernetes mounts it: read-only, behind two links, and replaced by a new directory."""
    source = tmp_path / "source.json"
    first = add_key(source, "app", ["predict"])
    mount = tmp_path / "mount"

    def write(name: str) -> None:
        (mount / name).mkdir(parents=True)
        (mount / name / "keys.json").write_bytes(source.read_bytes())
        (mount / name / "keys.json").chmod(0o444)
        (mount / f"{name}.link").symlink_to(name)
        (mount / f"{name}.link").replace(mount / "..data")

    write("first")
    (mount / "keys.json").symlink_to("..data/keys.json")
    last_used_directory(mount / "keys.json").write_bytes(b"")  # so that nothing can be stored
    keys = ApiKeys(mount / "keys.json", required=True)
    assert keys.check(bearer(first), "predict") == "app"
    second = rotate_key(source, "app", overlap=timedelta(0))
    write("second")
    assert keys.check(bearer(second), "predict") == "app"
    with pytest.raises(UnauthorizedError):
        keys.check(bearer(first), "predict")


def test_file_of_an_older_release_is_read_and_written(path: Path) -> None:
    """A key without the newer properties is stored without their fields."""
    add_key(path, "app", ["predict"])
    assert not {"expires_at", "requests_per_second", "previous"} & set(path.read_text().split('"'))


@pytest.mark.anyio
async def test_limit_over_http(colour_store: ModelStore, path: Path) -> None:
    secret = add_key(path, "batch", ["predict"], requests_per_second=0.01)
    async with started(colour_store.root, keys=path) as application:
        headers = {"Authorization": bearer(secret)}
        first = await application.client.post("/v1/predict", content=RED, headers=headers)
        assert first.status_code == 200
        second = await application.client.post("/v1/predict", content=RED, headers=headers)
        check_problem(second, 429, "rate_limited")
        assert 1 <= int(second.headers["retry-after"]) <= 100
