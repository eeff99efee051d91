"""Publishing: files become a sealed version by one rename.

Files are staged and synced in a hidden directory, the manifest last. Then the directory is renamed
to the next version number. Concurrent publishers get different numbers, and a crash at any step
leaves the store unchanged.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from model_store.errors import ManifestError, PublishError
from model_store.files import (
    DirectoryLock,
    make_directory_durably,
    sha256_of,
    sync_directory,
    write_durably,
)
from model_store.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from model_store.names import is_version_name, parse_version
from model_store.validation import describe_validation_error
from model_store.version import MAX_GOLDEN_IMAGE_BYTES, MAX_MANIFEST_BYTES, Version

if TYPE_CHECKING:  # imported only where it is used: it takes 30 ms
    from model_store.signature import SigningKey

STAGING_PREFIX = ".staging-"


def publish_version(
    directory: Path,
    model: str,
    manifest: Mapping[str, Any],
    files: Mapping[str, bytes | Path],
    signing_key: "SigningKey | None" = None,
) -> int:
    """Seal `files` in the model's directory; see `ModelStore.publish`."""
    staging = directory / f"{STAGING_PREFIX}{secrets.token_hex(8)}"
    try:
        make_directory_durably(directory)
        staging.mkdir()
        lock = DirectoryLock(staging)  # tells `prune` that this publisher is alive
    except OSError as error:
        raise PublishError(f"cannot write to {directory}: {error.strerror}") from error
    try:
        entries = [_stage(staging, path, source) for path, source in sorted(files.items())]
        sealed = _validated({**manifest, "model": model, "files": tuple(entries)})
        manifest_bytes = _checked_size(sealed.to_bytes())
        if signing_key:
            write_durably(staging / SIGNATURE_NAME, signing_key.sign(manifest_bytes))
        write_durably(staging / MANIFEST_NAME, manifest_bytes)
        _check_can_be_opened(staging, model)
        for folder in sorted({path.parent for path in staging.rglob("*")} | {staging}):
            sync_directory(folder)
        return _claim_next_version(directory, staging)
    except OSError as error:
        raise PublishError(
            f"publishing {model} failed: {error.strerror or error}. The store is unchanged"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        lock.release()


def _stage(staging: Path, path: str, source: bytes | Path) -> dict[str, Any]:
    target = staging / path
    if "\0" in path or not target.resolve().is_relative_to(staging.resolve()):
        raise PublishError(f"{path!r} is not inside the version's directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_durably(target, source if isinstance(source, bytes) else source.read_bytes())
    return {"path": path, "size": target.stat().st_size, "sha256": sha256_of(target)}


def _validated(fields: Mapping[str, Any]) -> Manifest:
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        raise ManifestError(
            f"this manifest cannot be sealed: {describe_validation_error(error)}"
        ) from None
    return Manifest.from_bytes(manifest.to_bytes())


def _checked_size(manifest: bytes) -> bytes:
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise ManifestError(
            f"the manifest would have {len(manifest):,} bytes, more than {MAX_MANIFEST_BYTES:,}; "
            "publish fewer golden images, or shorter names of classes"
        )
    return manifest


def _check_can_be_opened(staging: Path, model: str) -> None:
    """Open the version as a service will; what fails there must not be published."""
    with Version(model, 0, staging, "published") as staged:
        staged.verify()
        for golden in staged.manifest.golden:
            staged.read_file(golden.image, MAX_GOLDEN_IMAGE_BYTES)


def _claim_next_version(directory: Path, staging: Path) -> int:
    """Rename to the next free number; it fails if another publisher has taken that number."""
    while True:
        taken = [parse_version(name) for name in os.listdir(directory) if is_version_name(name)]
        number = max(taken, default=0) + 1
        if not is_version_name(str(number)):
            raise PublishError(f"{directory} has no version number left after {max(taken)}")
        try:
            staging.rename(directory / str(number))
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                continue
            raise
        sync_directory(directory)
        return number
