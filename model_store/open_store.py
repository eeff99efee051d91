"""Opens a model store by its location: a directory, or the URL of an object store."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from model_store.host_cache import default_host_cache
from model_store.object_storage import check_url, is_object_store
from model_store.store import BUILTIN_ROOT, ModelStore

if TYPE_CHECKING:  # elsewhere imported only when needed, because that takes 30 ms
    from model_store.signature import SigningKey, TrustedKeys

StoreLocation = Path | str
"""A directory, or a URL like `s3://bucket/models`."""


def parse_store_location(text: str | Path) -> StoreLocation:
    """Return a URL as text, and anything else as a path. Raises ValueError for a wrong URL."""
    return check_url(text) if isinstance(text, str) and is_object_store(text) else Path(text)


def open_store(
    location: StoreLocation,
    builtin_root: Path | None = BUILTIN_ROOT,
    *,
    may_appear: bool = False,
    signing_key: "SigningKey | None" = None,
    trusted_keys: "TrustedKeys | None" = None,
    model_name: str | None = None,
    cache: Path | None = None,
    cache_max_bytes: int | None = None,
) -> ModelStore:
    """Open a store; nothing is read yet.

    Args:
        location: A directory or a URL.
        builtin_root: The read-only layer, or None for none.
        may_appear: Whether a directory that has never existed counts as empty.
        signing_key: Signs what is published.
        trusted_keys: Only versions that one of them signed are opened.
        model_name: The name of the model if a directory has only one.
        cache: Directory of this host for versions of an object store.
        cache_max_bytes: Most bytes of versions in that directory.

    Raises:
        ValueError: The URL is not valid.
    """
    location = parse_store_location(location)
    if isinstance(location, Path):
        return ModelStore(
            location,
            builtin_root,
            may_appear=may_appear,
            signing_key=signing_key,
            trusted_keys=trusted_keys,
            model_name=model_name,
        )
    from model_store.remote_store import RemoteModelStore  # noqa: PLC0415  only for URLs
    from model_store.version_cache import DEFAULT_CACHE_BYTES  # noqa: PLC0415  as above

    return RemoteModelStore(
        location,
        cache or default_host_cache(),
        builtin_root,
        signing_key=signing_key,
        trusted_keys=trusted_keys,
        cache_max_bytes=DEFAULT_CACHE_BYTES if cache_max_bytes is None else cache_max_bytes,
    )


class StoreLocationType(click.ParamType[StoreLocation]):
    """The location of a store on the command line."""

    name = "directory or URL"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> StoreLocation:
        """Return a path or a URL; a path must not be a file."""
        try:
            location = parse_store_location(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if isinstance(location, Path) and location.is_file():
            self.fail(f"{location} is a file, not a directory", param, ctx)
        return location
