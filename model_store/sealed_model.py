"""Sessions of sealed versions: ONNX Runtime reads the bytes whose sha256 was compared.

If a path were opened once to compare it and again to load it, another process could replace the
file in between. So each file is opened once, and ONNX Runtime follows a link to the open file.
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Final

from model_store.density import MAX_FILE_BYTES, Density
from model_store.errors import ManifestError, StoreUnreadableError
from model_store.manifest import Manifest, Variant
from model_store.session import Session, SessionOptions
from model_store.temporary import temporary_directory
from model_store.version import Version

OPEN_FILES: Final = Path("/proc/self/fd")


def load_variant(
    version: Version, variant: Variant, options: SessionOptions | None = None
) -> Session:
    """Load a variant of a version. Its files are compared with their sha256 unless it is cached.

    Raises:
        ModelRunError: The variant cannot be loaded, or its inputs or outputs differ.
        VersionCorruptError: A file is not as it was sealed.
        StoreUnreadableError: A file cannot be read, or was changed while it was loaded.
    """
    manifest = version.manifest
    return Session(
        version.path(variant.file),
        manifest.input,
        manifest.outputs,
        options,
        _model_digest(manifest, variant),
        partial(open_model, version, variant),
    )


def load_density(version: Version, embedding_dims: int | None) -> Density | None:
    """Read the density file of a version; None if it has none.

    Args:
        version: The version.
        embedding_dims: Length of the embeddings of its session.

    Raises:
        ManifestError: The file is not a density of this model.
        VersionCorruptError: The file is not as it was sealed.
        StoreUnreadableError: The file cannot be read.
    """
    block = version.manifest.density
    if block is None:
        return None
    try:
        density = Density.from_bytes(version.read_file(block.file, MAX_FILE_BYTES))
    except ManifestError as error:
        raise ManifestError(f"{version}: {block.file}: {error}") from None
    expected = (len(version.manifest.class_names), embedding_dims)
    if density.unit_means.shape != expected:
        raise ManifestError(
            f"{version}: {block.file} is for [classes, dims] = "
            f"{list(density.unit_means.shape)}, expected {list(expected)}"
        )
    return density


@contextmanager
def open_model(version: Version, variant: Variant) -> Iterator[Path]:
    """Yield the path of a variant, in a folder with all files that may be its weights.

    Raises as `open_files` does.
    """
    with open_files(version, model_files(version.manifest, variant)) as paths:
        yield paths[variant.file]


@contextmanager
def open_files(version: Version, names: Iterable[str]) -> Iterator[dict[str, Path]]:
    """Yield paths of files of a version in a private directory of links to open, compared files.

    Raises:
        VersionCorruptError: A file is not as it was sealed.
        StoreUnreadableError: A file cannot be read, or was changed before the block ended.
    """
    with ExitStack() as stack:
        files = {name: stack.enter_context(version.open_file(name)) for name in names}
        yield _private_paths(stack, version, files)


def _private_paths(stack: ExitStack, version: Version, files: dict[str, FileIO]) -> dict[str, Path]:
    """Make a directory with links to open files; copies on systems without `/proc`."""
    links = {name: OPEN_FILES / str(file.fileno()) for name, file in files.items()}
    try:
        folder = stack.enter_context(temporary_directory("files"))
        paths = {name: folder / name for name in files}
        for name, file in files.items():
            paths[name].parent.mkdir(parents=True, exist_ok=True)
            if OPEN_FILES.is_dir():
                paths[name].symlink_to(links[name])
            else:
                with paths[name].open("wb") as copy:
                    shutil.copyfileobj(file, copy)
    except OSError as error:
        if OPEN_FILES.is_dir():  # a link suffices for a graph that contains its weights
            return links
        raise StoreUnreadableError(f"{version} cannot be copied: {error.strerror}") from error
    return paths


def model_files(manifest: Manifest, variant: Variant) -> list[str]:
    """The graph, and the files that no field of the manifest names: they may be its weights."""
    named = manifest.named_paths()
    unnamed = [entry.path for entry in manifest.files if entry.path not in named]
    return [variant.file, *unnamed]


def _model_digest(manifest: Manifest, variant: Variant) -> str:
    """A digest of all files of the version: a graph may keep its weights in another file."""
    sealed = sorted(f"{entry.path} {entry.sha256}" for entry in manifest.files)
    return hashlib.sha256("\n".join([variant.file, *sealed]).encode()).hexdigest()
