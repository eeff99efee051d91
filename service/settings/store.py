"""Settings of the model store, and of the versions that are loaded from it."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from model_store.host_cache import default_host_cache
from model_store.names import is_name
from model_store.open_store import StoreLocation, parse_store_location
from model_store.store import BUILTIN_DEFAULT_MODEL, DEFAULT_ROOT
from service.settings.units import MEBIBYTE
from service.versions.version_policy import PolicyText


def parse_names(text: str) -> tuple[str, ...]:
    """Split comma-separated model names; empty text gives none. Raises ValueError."""
    names = tuple(name.strip() for name in text.split(",")) if text.strip() else ()
    for name in names:
        if not is_name(name):
            raise ValueError(f"{name!r} is not a model name; expected names separated by commas")
    return names


def _check_model_name(text: str | None) -> str | None:
    if text and not is_name(text):
        raise ValueError(f"{text!r} is not a model name")
    return text or None


def _check_names(text: str | None) -> str | None:
    if text is not None:
        parse_names(text)
    return text


class StoreSettings(BaseModel):
    """Which models and versions the service loads, and where it keeps what it derives from them."""

    store: Annotated[
        StoreLocation,
        BeforeValidator(parse_store_location),
        Field(
            description="Root directory of the model store, or the directory of one model or of "
            "one version, or a URL like s3://bucket/models. Also --model-dir."
        ),
    ] = DEFAULT_ROOT
    model_name: Annotated[
        str | None,
        AfterValidator(_check_model_name),
        Field(
            description="Name of the model if SERVICE_STORE is the directory of one model or of "
            "one version. Unset: the name in its manifest. In a store it is the default model."
        ),
    ] = None
    create_store: Annotated[
        bool, Field(description="Create the directory of the model store if it does not exist.")
    ] = False
    store_poll_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            description="Seconds between checks of the store for new versions and moved aliases. "
            "0 checks only at startup, and when a version was tried or is tried again.",
        ),
    ] = 2.0
    store_cache_max_bytes: Annotated[
        int,
        Field(
            ge=MEBIBYTE,
            description="Most bytes of versions of an object store in SERVICE_CACHE; the least "
            "recently used are deleted first, but none that is loaded.",
        ),
    ] = 16 * 1024 * MEBIBYTE
    builtin: Annotated[
        bool, Field(description="Also serve the models that ship with the project.")
    ] = True
    require_signature: Annotated[
        Path | None,
        Field(
            description="File of Ed25519 public keys in PEM. Only published versions that one of "
            "them signed are loaded; the built-in models are part of the program. Unset: "
            "signatures are not checked."
        ),
    ] = None
    version_policy: Annotated[
        PolicyText,
        Field(
            description="Versions of a model to serve: alias:production (the alias's version, or "
            "the newest without an alias), latest:2, versions:1,4 or all."
        ),
    ] = "alias:production"
    default_model: Annotated[
        str | None,
        Field(
            description="Model that answers /v1/predict. Unset: the model of SERVICE_MODEL_NAME or "
            "of a SERVICE_STORE that is one model's directory, else the built-in "
            f"{BUILTIN_DEFAULT_MODEL}, and none with --no-builtin. It does not change while the "
            "service runs."
        ),
    ] = None
    required_models: Annotated[
        str | None,
        AfterValidator(_check_names),
        Field(
            description="Comma-separated models that must serve for this replica to be ready. "
            "Unset: the default model, those that serve after startup, and one of the published "
            "ones. Empty: any one model is enough."
        ),
    ] = None
    load_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=86_400,
            description="Seconds until the first load of a published version on this host is "
            "stopped, and the version fails. It runs in a process of its own.",
        ),
    ] = 300.0
    load_memory_bytes: Annotated[
        int | None,
        Field(
            ge=MEBIBYTE,
            description="Most bytes of memory for the first load of a published version. Unset: "
            "90 % of what the machine and the container have left.",
        ),
    ] = None
    cache: Annotated[
        Path,
        Field(
            default_factory=default_host_cache,
            description="Directory of optimised graphs, engines, trials, times of warm-up and "
            "tuned settings of this host. It is safe to delete. Unset: `resident` in "
            "$XDG_CACHE_HOME, else in ~/.cache.",
        ),
    ]
    cache_max_bytes: Annotated[
        int,
        Field(
            ge=0,
            description="Most bytes of optimised graphs in the cache; the least recently used are "
            "deleted first. 0 disables the graph cache.",
        ),
    ] = 2 * 1024 * MEBIBYTE
