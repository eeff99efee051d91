"""Objects below a URL, such as `s3://bucket/models`, by name. Uses fsspec.

It has only what a model store needs: list, read, create exclusively, write, delete. `create` is one
conditional write (`If-None-Match: *` on S3 and Azure, `ifGenerationMatch=0` on Google Cloud), so of
several writers exactly one succeeds.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from model_store.errors import FileAlteredError, ModelStoreError, StoreUnreadableError

CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 30
ATTEMPTS: Final = 3
PACKAGES: Final = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


class ObjectTooLargeError(StoreUnreadableError):
    """An object is larger than what its reader accepts."""


def is_object_store(location: str) -> bool:
    """Whether a location of a store is a URL and not a directory."""
    return "://" in location


def check_url(url: str) -> str:
    """Return the URL of a store without slashes at its end. Raises ValueError."""
    scheme, _, path = url.partition("://")
    if scheme not in PACKAGES or not path.strip("/"):
        schemes = ", ".join(f"{each}://" for each in PACKAGES)
        raise ValueError(
            f"{url!r} is not the URL of a model store: expected {schemes}, a bucket, and "
            "optionally a path"
        )
    return f"{scheme}://{path.strip('/')}"


class ObjectStorage:
    """The objects below one URL. Names are relative to it, with `/` between their parts.

    Every call is a request: nothing is cached. It can be pickled; each process connects for itself.

    Args:
        url: `s3://`, `gs://` or `az://`, a bucket or container, and optionally a path.

    Raises:
        ValueError: The URL has another scheme or no bucket.
    """

    def __init__(self, url: str) -> None:
        self.url = check_url(url)
        self._scheme, _, self._root = self.url.partition("://")
        self._files: Any = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["url"])  # type: ignore[misc]

    def names(self, folder: str = "") -> dict[str, datetime]:
        """The names of all objects below a folder, and when each was last written.

        Raises:
            StoreUnreadableError: They cannot be listed.
        """
        with self._errors(f"{self.url}/{folder}") as files:
            found = files.find(self._path(folder), detail=True, withdirs=False)
        start = len(self._root) + 1
        return {
            path[start:]: _written_at(entry)
            for path, entry in found.items()
            if entry["type"] == "file"  # s3fs adds the folder if it was empty a moment ago
        }

    def read(self, name: str, max_bytes: int) -> bytes:
        """The bytes of an object.

        Raises:
            FileNotFoundError: There is no such object.
            ObjectTooLargeError: It is larger than `max_bytes`.
            StoreUnreadableError: It cannot be read.
        """
        with self._errors(f"{self.url}/{name}") as files:
            data: bytes = files.cat_file(self._path(name), start=0, end=max_bytes + 1)
        if len(data) > max_bytes:
            raise ObjectTooLargeError(f"{self.url}/{name} is larger than {max_bytes:,} bytes")
        return data

    def download(self, name: str, path: Path, size: int) -> None:
        """Write an object of `size` bytes to a new local file. Raises as `read` does."""
        with self._errors(f"{self.url}/{name}") as files:
            found = files.info(self._path(name))["size"]
            if found != size:  # it could fill the disk
                raise FileAlteredError(f"{name} has {found:,} bytes; the manifest says {size:,}")
            files.get_file(self._path(name), str(path))

    def create(self, name: str, data: bytes) -> None:
        """Write an object if it does not exist. Of several writers, exactly one succeeds.

        Raises:
            FileExistsError: The object exists.
            StoreUnreadableError: It cannot be written.
        """
        with self._errors(f"{self.url}/{name}") as files:
            files.pipe_file(self._path(name), data, mode="create")

    def upload(self, name: str, path: Path) -> None:
        """Write a local file as an object, and replace the object if it exists.

        Raises:
            StoreUnreadableError: It cannot be written.
        """
        with self._errors(f"{self.url}/{name}") as files:
            files.put_file(str(path), self._path(name))

    def delete(self, name: str) -> None:
        """Delete an object. Raises StoreUnreadableError if it cannot be deleted."""
        with self._errors(f"{self.url}/{name}") as files:
            files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _errors(self, what: str) -> Iterator[Any]:
        """Yields the connected file system. Its errors become StoreUnreadableError."""
        try:
            yield self._connected()
        except (FileNotFoundError, FileExistsError):
            raise
        except ModelStoreError:
            raise
        except Exception as error:  # each library has its own exceptions
            self._files = None  # the next call connects again and reads the credentials again
            raise StoreUnreadableError(f"{what}: {_reason(error)}") from error

    def _connected(self) -> Any:
        with self._lock:
            if self._files is None:
                self._files = self._connect()
            return self._files

    def _connect(self) -> Any:
        options: dict[str, Any] = {}
        if self._scheme == "s3":
            options["config_kwargs"] = {
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                "retries": {"max_attempts": ATTEMPTS},
            }
        try:
            import fsspec  # type: ignore[import-untyped]  # noqa: PLC0415  an extra, and slow

            return fsspec.filesystem(
                self._scheme, skip_instance_cache=True, use_listings_cache=False, **options
            )
        except ImportError:
            package = PACKAGES[self._scheme]
            raise StoreUnreadableError(
                f"{self.url} needs the package {package}: "
                + (
                    "pip install '.[object-store]'"
                    if package == "s3fs"
                    else f"pip install {package}"
                )
            ) from None


def _written_at(entry: dict[str, Any]) -> datetime:
    """The time of an object; each library has its own key for it."""
    for key in ("LastModified", "last_modified", "mtime", "updated"):
        value = entry.get(key)
        if isinstance(value, datetime):
            return value
        if isinstance(value, str):
            return datetime.fromisoformat(value)
    raise StoreUnreadableError("the object storage does not say when an object was written")


def _reason(error: Exception) -> str:
    """The first line of an error, shortened, because the rest may contain credentials."""
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
