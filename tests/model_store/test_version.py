"""An opened version: each kind of damage has its own error, and the version is locked."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from store_factory import PLAIN_FILES, publish_plain, rewrite_manifest

from model_store.errors import (
    FileAlteredError,
    FileMissingError,
    FileUnlistedError,
    ManifestError,
    ModelStoreError,
    PathEscapesError,
    StoreUnreadableError,
    VersionNotFoundError,
)
from model_store.files import DirectoryLock
from model_store.manifest import MANIFEST_NAME, manifest_digest
from model_store.store import ModelStore
from model_store.version import MAX_MANIFEST_BYTES

Damage = Callable[[Path], object]


@pytest.fixture
def directory(store: ModelStore) -> Path:
    """The directory of the model's one version."""
    return store.root / "m" / str(publish_plain(store))


def flip_a_byte(directory: Path) -> None:
    path = directory / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def move_out(directory: Path, name: str) -> None:
    """Put a link in the place of something, to the same thing outside of the version."""
    outside = directory.parent.parent / "outside"
    (directory / name).rename(outside)
    (directory / name).symlink_to(outside)


def edit_path(directory: Path, path: str) -> None:
    entries = json.loads((directory / MANIFEST_NAME).read_bytes())["files"]
    rewrite_manifest(directory, {"files": [entries[0] | {"path": path}, *entries[1:]]})


def replace_with(directory: Path, make: Callable[[Path], object]) -> None:
    (directory / "model.onnx").unlink()
    make(directory / "model.onnx")


DAMAGES: dict[str, tuple[Damage, type[ModelStoreError], str]] = {
    "a flipped byte": (flip_a_byte, FileAlteredError, "sha256 of model.onnx"),
    "one byte less": (
        lambda it: os.truncate(it / "model.onnx", 5),
        FileAlteredError,
        "model.onnx has 5 bytes",
    ),
    "a missing file": (
        lambda it: (it / "model.onnx").unlink(),
        FileMissingError,
        "model.onnx is missing",
    ),
    "a missing folder": (
        lambda it: shutil.rmtree(it / "labels"),
        FileMissingError,
        "labels/names.txt is missing",
    ),
    "a folder that is a file": (
        lambda it: (shutil.rmtree(it / "labels"), (it / "labels").touch()),
        FileMissingError,
        "labels/names.txt is missing",
    ),
    "an unlisted file": (
        lambda it: (it / "extra").touch(),
        FileUnlistedError,
        "extra",
    ),
    "an unlisted file in a folder": (
        lambda it: (it / "labels/extra").touch(),
        FileUnlistedError,
        "labels/extra",
    ),
    "an unlisted link": (
        lambda it: (it / "extra").symlink_to("nowhere"),
        FileUnlistedError,
        "extra",
    ),
    "an unlisted link to a folder": (
        lambda it: (it / "extra").symlink_to("labels"),
        FileUnlistedError,
        "extra",
    ),
    "a file that is a link": (
        lambda it: move_out(it, "model.onnx"),
        PathEscapesError,
        "symbolic link",
    ),
    "a folder that is a link": (
        lambda it: move_out(it, "labels"),
        PathEscapesError,
        "labels/names.txt",
    ),
    "a dangling link": (
        lambda it: replace_with(it, lambda path: path.symlink_to("nowhere")),
        PathEscapesError,
        "symbolic link",
    ),
    "a folder for a file": (
        lambda it: replace_with(it, Path.mkdir),
        PathEscapesError,
        "not a regular file",
    ),
    "a pipe for a file": (
        lambda it: replace_with(it, os.mkfifo),
        PathEscapesError,
        "not a regular file",
    ),
    "a manifest that is a link": (
        lambda it: move_out(it, MANIFEST_NAME),
        PathEscapesError,
        "symbolic link",
    ),
    "a manifest that is a folder": (
        lambda it: ((it / MANIFEST_NAME).unlink(), (it / MANIFEST_NAME).mkdir()),
        ManifestError,
        "not a regular file",
    ),
    "a manifest that is too large": (
        lambda it: os.truncate(it / MANIFEST_NAME, MAX_MANIFEST_BYTES + 1),
        ManifestError,
        "larger than",
    ),
    "a manifest that is no JSON": (
        lambda it: (it / MANIFEST_NAME).write_bytes(b"{"),
        ManifestError,
        "Invalid JSON",
    ),
    "an unknown field": (
        lambda it: rewrite_manifest(it, {"surprise": 1}),
        ManifestError,
        "surprise",
    ),
    "another schema": (
        lambda it: rewrite_manifest(it, {"schema_version": 2}),
        ManifestError,
        "schema_version",
    ),
    "the manifest of another model": (
        lambda it: rewrite_manifest(it, {"model": "x"}),
        ManifestError,
        "belongs to model 'x'",
    ),
    "a path upwards": (
        lambda it: edit_path(it, "../1/model.onnx"),
        ManifestError,
        "files.0.path",
    ),
    "an absolute path": (
        lambda it: edit_path(it, "/etc/passwd"),
        ManifestError,
        "files.0.path",
    ),
    "a backslash": (
        lambda it: edit_path(it, "labels\\names.txt"),
        ManifestError,
        "files.0.path",
    ),
    "a version that is a link": (
        lambda it: (
            it.rename(it.parent.parent / "moved"),
            it.symlink_to(it.parent.parent / "moved"),
        ),
        PathEscapesError,
        "m/1 is a symbolic link",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_has_its_own_error(kind: str, store: ModelStore, directory: Path) -> None:
    """With its own error class and the name of the version."""
    damage, error_class, words = DAMAGES[kind]
    damage(directory)
    with pytest.raises(ModelStoreError) as caught:
        store.open("m", 1)
    assert type(caught.value) is error_class
    assert words in str(caught.value)
    assert "m/1" in str(caught.value)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_version_that_does_not_open_keeps_no_lease(
    kind: str, store: ModelStore, directory: Path
) -> None:
    """A failed opening gives its lock back, so that the damaged version can be deleted."""
    damage, _, _ = DAMAGES[kind]
    damage(directory)
    with pytest.raises(ModelStoreError):
        store.open("m", 1)
    DirectoryLock(directory, exclusive=True).release()


def test_a_whole_version_opens(store: ModelStore, directory: Path) -> None:
    """An unchanged version verifies, knows its name, its identity and where its files lie."""
    with store.open("m", 1) as version:
        assert str(version) == "m/1"
        assert version.layer == "published"
        assert version.digest == manifest_digest((directory / MANIFEST_NAME).read_bytes())
        assert {entry.path for entry in version.manifest.files} == set(PLAIN_FILES)
        for path, data in PLAIN_FILES.items():
            assert version.path(path).read_bytes() == data


def test_opening_without_verifying_reads_the_manifest_alone(
    store: ModelStore, directory: Path
) -> None:
    """With `verify=False` damaged files are not looked at; `verify` finds them later."""
    flip_a_byte(directory)
    with store.open("m", 1, verify=False) as version, pytest.raises(FileAlteredError):
        version.verify()


def test_a_version_without_a_manifest_does_not_exist(store: ModelStore, directory: Path) -> None:
    """Without its manifest a version is not there, though its files are."""
    publish_plain(store)
    (directory / MANIFEST_NAME).unlink()
    with pytest.raises(VersionNotFoundError, match="m has no version 1; it has 2"):
        store.open("m", 1)


def test_a_variant_is_found_by_its_precision(store: ModelStore, directory: Path) -> None:
    """A precision that the version lacks is an error that lists those it has."""
    assert directory.exists()
    with store.open("m", 1) as version:
        assert version.variant().file == "model.onnx"
        with pytest.raises(ManifestError, match="m/1 has no int8 variant; it has fp32"):
            version.variant("int8")


def test_an_open_version_is_leased(store: ModelStore, directory: Path) -> None:
    """Nobody gets the exclusive lock meanwhile. Closing twice is harmless."""
    first, second = store.open("m", 1), store.open("m", 1)
    first.close()
    first.close()
    with pytest.raises(BlockingIOError):
        DirectoryLock(directory, exclusive=True)
    second.close()
    DirectoryLock(directory, exclusive=True).release()


def test_a_version_that_is_being_deleted_is_not_found(store: ModelStore, directory: Path) -> None:
    """A reader that meets a prune at work is told that the version goes, not that it is damaged."""
    lock = DirectoryLock(directory, exclusive=True)
    with pytest.raises(VersionNotFoundError, match="being deleted"):
        store.open("m", 1)
    lock.release()


@pytest.mark.parametrize("name", ["model.onnx", "labels/names.txt", MANIFEST_NAME])
@pytest.mark.parametrize("kind", ["link", "pipe", "device"])
def test_only_regular_files_are_read(
    store: ModelStore, directory: Path, name: str, kind: str
) -> None:
    """A link, even to the same bytes, a pipe and a device are rejected and block nothing."""
    path = directory / name
    path.rename(store.root / "copy")
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(store.root / "copy" if kind == "link" else "/dev/zero")
    with pytest.raises((PathEscapesError, ManifestError)):
        store.open("m", 1)


def test_linked_folder_is_rejected(store: ModelStore, directory: Path) -> None:
    """A file behind a linked folder is rejected, also if its bytes are the sealed ones."""
    (directory / "labels").rename(store.root / "elsewhere")
    (directory / "labels").symlink_to(store.root / "elsewhere")
    with pytest.raises(PathEscapesError, match=r"labels/names\.txt"):
        store.open("m", 1)


def test_file_that_is_swapped_after_it_was_opened_is_still_the_compared_one(
    store: ModelStore, directory: Path
) -> None:
    """What is read from it is what was compared. At its end the swap is noticed all the same."""
    with store.open("m", 1) as version:
        opening = version.open_file("model.onnx")
        file = opening.__enter__()
        (directory / "other").write_bytes(b"other bytes")
        (directory / "other").replace(directory / "model.onnx")
        assert file.read() == PLAIN_FILES["model.onnx"]
        with pytest.raises(StoreUnreadableError):
            opening.__exit__(None, None, None)
        with pytest.raises(FileAlteredError), version.open_file("model.onnx"):
            pass
        with pytest.raises(FileAlteredError):
            version.read_file("model.onnx", 1000)


def test_small_file_is_bounded(store: ModelStore) -> None:
    """A file is not read beyond what its reader allows."""
    publish_plain(store)
    size = len(PLAIN_FILES["model.onnx"])
    with store.open("m", 1) as version:
        assert version.read_file("model.onnx", size) == PLAIN_FILES["model.onnx"]
        with pytest.raises(FileAlteredError, match=f"larger than {size - 1} bytes"):
            version.read_file("model.onnx", size - 1)
        assert version.read_file("model.onnx") == PLAIN_FILES["model.onnx"]
        version.path("model.onnx").write_bytes(PLAIN_FILES["model.onnx"] * 2)
        with pytest.raises(FileAlteredError, match=f"larger than {size} bytes"):
            version.read_file("model.onnx")


def test_name_of_an_unlisted_file_is_printable(store: ModelStore, directory: Path) -> None:
    """Control characters and bytes outside UTF-8 are escaped in the message."""
    (directory / "a\nb\udcff").touch()
    with pytest.raises(FileUnlistedError) as caught:
        store.open("m", 1)
    assert r"a\nb\udcff" in str(caught.value)
    assert str(caught.value).isprintable()
