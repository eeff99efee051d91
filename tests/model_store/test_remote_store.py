"""A model store in a real S3 server: races, crashes, outages, damage, and the cache."""

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import s3fs
from click.testing import CliRunner
from s3_server import S3Server, running_s3
from signing_keys import write_keys
from store_factory import PLAIN_FILES, plain_fields, publish_plain, publish_proven

from model_store import remote_objects, remote_store
from model_store.__main__ import main
from model_store.aliases import PRODUCTION
from model_store.copying import copy_versions
from model_store.errors import (
    AliasError,
    FileAlteredError,
    FileMissingError,
    ManifestError,
    ModelNotFoundError,
    PublishError,
    SignatureError,
    StoreUnreadableError,
    VersionNotFoundError,
)
from model_store.object_storage import ObjectStorage
from model_store.open_store import open_store
from model_store.remote_store import RemoteModelStore
from model_store.signature import SigningKey, TrustedKeys
from model_store.store import ModelStore
from model_store.version import MAX_MANIFEST_BYTES
from model_store.version_cache import FOLDER

RACERS = 8


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@pytest.fixture
def url(s3: S3Server) -> str:
    return f"s3://{s3.new_bucket()}/models"


@pytest.fixture
def at(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RemoteModelStore]:
    """Opens the store as another machine would: with its own cache directory."""
    monkeypatch.setattr(remote_objects, "LISTING_SECONDS", 0.0)

    def open_on(machine: str, **options: object) -> RemoteModelStore:
        return RemoteModelStore(url, tmp_path / machine, None, **options)  # type: ignore[arg-type]

    return open_on


@pytest.fixture
def remote(at: Callable[..., RemoteModelStore]) -> RemoteModelStore:
    return at("here")


At = Callable[..., RemoteModelStore]


def test_a_version_from_one_machine_opens_on_another(remote: RemoteModelStore, at: At) -> None:
    """It is verified and has the same bytes. The next publication gets the next number."""
    assert [publish_plain(remote), publish_plain(remote, max_batch_size=4)] == [1, 2]
    other = at("there")
    assert {name: each.versions for name, each in other.contents().items()} == {"m": (1, 2)}
    assert (other.models(), other.versions("m"), other.layer("m")) == (["m"], [1, 2], "published")
    with other.open("m", 2) as version:
        assert version.manifest.max_batch_size == 4
        for path, content in PLAIN_FILES.items():
            assert version.read_file(path) == content
    with pytest.raises(VersionNotFoundError):
        other.open("m", 3)
    with pytest.raises(ModelNotFoundError):
        other.open("n", 1)


def test_aliases_move_for_everyone_and_roll_back(remote: RemoteModelStore, at: At) -> None:
    for _ in range(2):
        publish_plain(remote)
    before = remote.aliases("m").change_token(PRODUCTION)
    remote.promote("m", 1, why="first", by="ann")
    remote.promote("m", 2)
    other = at("there")
    assert other.resolve("m") == 2
    assert other.aliases("m").names() == [PRODUCTION]
    assert other.aliases("m").change_token(PRODUCTION) != before
    assert other.rollback("m") == 1
    assert remote.resolve("m") == 1
    history = remote.aliases("m").history(PRODUCTION)
    assert [(event.action, event.version) for event in history] == [
        ("promote", 1),
        ("promote", 2),
        ("rollback", 1),
    ]
    assert (history[0].why, history[0].by) == ("first", "ann")


def test_racing_publishers_get_different_numbers(at: At) -> None:
    stores = [at(f"machine{number}") for number in range(RACERS)]
    with ThreadPoolExecutor(RACERS) as threads:
        numbers = list(threads.map(publish_plain, stores))
    assert sorted(numbers) == list(range(1, RACERS + 1))
    other = at("there")
    assert other.versions("m") == sorted(numbers)
    for number in numbers:
        other.open("m", number).close()


def test_concurrent_moves_of_an_alias_are_all_kept(at: At) -> None:
    stores = [at(f"machine{number}") for number in range(RACERS)]
    for _ in stores:
        publish_plain(stores[0])
    with ThreadPoolExecutor(RACERS) as threads:
        list(threads.map(lambda store, number: store.promote("m", number), stores, range(1, 9)))
    moved = [event.version for event in at("there").aliases("m").history(PRODUCTION)]
    assert sorted(moved) == list(range(1, RACERS + 1))


@pytest.mark.parametrize("writes", range(4))
def test_a_publisher_that_dies_leaves_no_version(
    remote: RemoteModelStore, at: At, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """It may die before or after the claim or any file. Its number is never used again."""
    publish_plain(remote)
    left = writes

    def dies(method: str) -> None:
        original = getattr(ObjectStorage, method)

        def write(self: ObjectStorage, *arguments: object) -> None:
            nonlocal left
            if left == 0:
                raise StoreUnreadableError("the machine lost its power")
            left -= 1
            original(self, *arguments)

        monkeypatch.setattr(ObjectStorage, method, write)

    with monkeypatch.context():
        dies("create")
        dies("upload")
        with pytest.raises(PublishError):
            publish_plain(remote)
        monkeypatch.undo()
    other = at("there")
    assert other.versions("m") == [1]
    number = publish_plain(other)
    assert number == (2 if writes == 0 else 3)
    assert other.prune("m").leftovers == ()  # its publisher may still be alive
    monkeypatch.setattr(remote_store, "ABANDONED_AFTER", timedelta(-1))
    left_behind = ("2",) if writes >= 2 else ()
    assert other.prune("m", dry_run=True).leftovers == left_behind
    assert other.prune("m").leftovers == left_behind
    assert other.prune("m").leftovers == ()
    other.open("m", number).close()


def test_prune_deletes_what_no_alias_needs(url: str, remote: RemoteModelStore, at: At) -> None:
    for _ in range(4):
        publish_plain(remote)
    remote.promote("m", 1)
    in_use = at("there").open("m", 2)
    assert remote.prune("m", 1, dry_run=True).deleted == (2, 3)
    assert remote.versions("m") == [1, 2, 3, 4]
    report = remote.prune("m", 1)
    assert (report.deleted, sorted(report.kept)) == ((2, 3), [1, 4])
    assert remote.versions("m") == [1, 4]
    assert ObjectStorage(url).names("m/2") == ObjectStorage(url).names("m/3") == {}
    in_use.verify()  # services keep their copy
    in_use.close()
    assert publish_plain(remote) == 5


@pytest.mark.slow
def test_calls_fail_during_an_outage_and_work_after_it(
    s3: S3Server, remote: RemoteModelStore, at: At
) -> None:
    """Listing, opening, publishing and moving fail. An opened version keeps working."""
    publish_plain(remote)
    remote.promote("m", 1)
    opened = remote.open("m", 1)
    s3.stop()
    try:
        with pytest.raises(StoreUnreadableError):
            remote.contents()
        with pytest.raises(StoreUnreadableError):
            at("there").open("m", 1)
        with pytest.raises(PublishError):
            publish_plain(remote)
        with pytest.raises((AliasError, StoreUnreadableError)):
            remote.promote("m", 1)
        opened.verify()
        opened.close()
        assert not remote.exists()
    finally:
        s3.start()
    assert remote.versions("m") == [1]
    assert publish_plain(remote) == 2
    at("there").open("m", 2).close()


class _Expired(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_expired_credentials_are_named_and_new_ones_are_read(
    remote: RemoteModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same store works again once the environment has others."""
    publish_plain(remote)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Expired) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
            again = pickle.loads(pickle.dumps(remote))  # noqa: S301
            with pytest.raises(StoreUnreadableError, match="expired"):
                again.contents()
        server.shutdown()
    assert again.versions("m") == [1]


def test_an_altered_object_is_never_opened_and_a_repaired_one_is(
    s3: S3Server, url: str, remote: RemoteModelStore, at: At
) -> None:
    publish_plain(remote)
    path = f"{url.removeprefix('s3://')}/m/1/model.onnx"
    good = s3.get(path)
    s3.put(path, b"N" + good[1:])
    other = at("there")
    with pytest.raises(FileAlteredError):
        other.open("m", 1)
    s3.put(path, good)
    other.open("m", 1).close()


def test_refused_versions_are_not_downloaded(
    s3: S3Server, url: str, remote: RemoteModelStore, at: At, tmp_path: Path
) -> None:
    """The size differs from the sealed one, the manifest is another model's, or is unsigned."""
    publish_plain(remote)
    base = url.removeprefix("s3://")
    s3.put(f"{base}/n/1/manifest.json", s3.get(f"{base}/m/1/manifest.json"))
    s3.put(f"{base}/m/1/model.onnx", bytes(1_000_000))
    trusted = TrustedKeys.read(write_keys(tmp_path, "publisher")[1])
    downloads: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        download = s3fs.S3FileSystem.get_file

        def record(files: s3fs.S3FileSystem, name: str, *arguments: object) -> None:
            downloads.append(name)
            download(files, name, *arguments)

        patch.setattr(s3fs.S3FileSystem, "get_file", record)
        for model, error, keys in (
            ("m", FileAlteredError, None),
            ("n", ManifestError, None),
            ("n", SignatureError, trusted),
        ):
            with pytest.raises(error):
                at("there", trusted_keys=keys).open(model, 1)
    assert not [each for each in downloads if "/n/" in each or each.endswith("model.onnx")]


def test_a_manifest_over_the_limit_is_not_an_outage(
    s3: S3Server, url: str, remote: RemoteModelStore, at: At
) -> None:
    """A service does not read it again and again."""
    publish_plain(remote)
    s3.put(f"{url.removeprefix('s3://')}/m/1/manifest.json", bytes(MAX_MANIFEST_BYTES + 1))
    with pytest.raises(ManifestError):
        at("there").open("m", 1)


def test_a_missing_object_is_not_a_deleted_version(
    url: str, remote: RemoteModelStore, at: At
) -> None:
    publish_plain(remote)
    ObjectStorage(url).delete("m/1/model.onnx")
    with pytest.raises(FileMissingError):
        at("there").open("m", 1)


def test_a_replaced_manifest_is_noticed_although_the_old_one_is_cached(
    s3: S3Server, url: str, remote: RemoteModelStore, at: At
) -> None:
    publish_plain(remote)
    remote.open("m", 1).close()
    publish_plain(at("there"), max_batch_size=4)
    base = url.removeprefix("s3://")
    s3.put(f"{base}/m/1/manifest.json", s3.get(f"{base}/m/2/manifest.json"))
    with remote.open("m", 1) as version:
        assert version.manifest.max_batch_size == 4


@pytest.mark.parametrize("content", [b"", b"N", None], ids=["empty", "altered", "missing"])
def test_a_damaged_copy_is_downloaded_again(
    remote: RemoteModelStore, at: At, content: bytes | None
) -> None:
    """The bucket is intact, so the version still opens."""
    publish_plain(remote)
    other = at("there")
    with other.open("m", 1) as version:
        copy = version.path("model.onnx")
    good = copy.read_bytes()
    copy.unlink()
    if content is not None:
        copy.write_bytes(content + good[1:] if content else content)
    with other.open("m", 1) as version:
        assert version.read_file("model.onnx") == good


def test_prune_keeps_at_least_one_version(remote: RemoteModelStore) -> None:
    publish_plain(remote)
    with pytest.raises(ValueError, match="keep"):
        remote.prune("m", 0)
    assert remote.versions("m") == [1]


def test_the_cache_is_bounded_and_keeps_open_versions(remote: RemoteModelStore, at: At) -> None:
    for number in range(1, 5):
        publish_plain(remote, max_batch_size=number)
    other = at("there", cache_max_bytes=1)
    first = other.open("m", 1)
    for number in (2, 3, 4):
        other.open("m", number).close()
    first.verify()
    cached = [each for each in (other.root).iterdir() if not each.name.startswith(".")]
    assert len(cached) == 2  # the open one, and the newest
    assert other.root.name == FOLDER
    first.close()
    other.open("m", 2).close()  # fetched again
    assert len(list(other.root.iterdir())) == 1


def test_a_manifest_is_read_without_the_files(remote: RemoteModelStore, at: At) -> None:
    publish_plain(remote, max_batch_size=4)
    with at("there").open_manifest("m", 1) as version:
        assert version.manifest.max_batch_size == 4
        assert not version.path("model.onnx").exists()
    at("there").open("m", 1).close()


def test_only_signed_versions_are_opened_where_keys_are_trusted(
    remote: RemoteModelStore, at: At, tmp_path: Path
) -> None:
    private, public = write_keys(tmp_path, "publisher")
    publish_plain(remote)
    publish_plain(at("publisher", signing_key=SigningKey.read(private)))
    strict = at("there", trusted_keys=TrustedKeys.read(public))
    strict.open("m", 2).close()
    with pytest.raises(SignatureError):
        strict.open("m", 1)


def test_a_copy_through_s3_keeps_every_digest(
    remote: RemoteModelStore, store: ModelStore, tmp_path: Path
) -> None:
    """Backup into a bucket, and restore into a directory."""
    publish_plain(store)
    publish_plain(store, max_batch_size=4)
    restored = ModelStore(tmp_path / "restored", builtin_root=None)
    restored.create()
    assert [entry.is_new for entry in copy_versions(store, remote)] == [True, True]
    assert [entry.is_new for entry in copy_versions(store, remote)] == [False, False]
    list(copy_versions(remote, restored))
    for number in (1, 2):
        with store.open("m", number) as before, restored.open("m", number) as after:
            assert before.digest == after.digest


def test_the_commands_take_a_url(url: str, remote: RemoteModelStore) -> None:
    publish_proven(remote)
    runner = CliRunner()
    for words in (["list"], ["verify", "m", "1"], ["promote", "m", "1"], ["aliases", "m"]):
        result = runner.invoke(main, [*words, "--store", url])
        assert result.exit_code == 0, result.output
    assert "production -> 1" in result.output


@pytest.mark.parametrize("bad", ["s3://", "ftp://host/models", "https://host/models", "s3:///"])
def test_other_urls_are_refused(bad: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="s3://"):
        open_store(bad, cache=tmp_path)
    result = CliRunner().invoke(main, ["list", "--store", bad])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    store = open_store("s3://no-such-bucket/models", None, cache=tmp_path)
    with pytest.raises(StoreUnreadableError):
        store.contents()
    with pytest.raises(PublishError):
        store.create()
    with pytest.raises(PublishError):
        store.publish("m", plain_fields(), PLAIN_FILES)


def test_the_text_of_a_directory_opens_a_store_on_disk(tmp_path: Path) -> None:
    """As `ModelStore.location` gives it."""
    store = open_store(str(tmp_path))
    assert isinstance(store, ModelStore)
    assert store.location == str(tmp_path)
