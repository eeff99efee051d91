"""The service's settings. Each one is an option, an environment variable and a line of `--help`."""

import json
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model_store.host_cache import default_host_cache
from model_store.image_header import DEFAULT_MAX_PIXELS, PILLOW_MAX_PIXELS
from model_store.manifest import Precision
from model_store.names import is_name
from model_store.providers import AUTO, parse_providers
from model_store.store import BUILTIN_DEFAULT_MODEL, DEFAULT_ROOT
from service.key_file import default_key_file
from service.public_address import parse_origins, parse_root_path
from service.versions.version_policy import PolicyText, VersionPolicy, parse_policy

MEBIBYTE: Final = 1024 * 1024
ENVIRONMENT_PREFIX: Final = "SERVICE_"
EXPECTED_MODELS: Final = (
    'expected a JSON object of settings by model name, like {"resnet50": {"instances": 1}}'
)
Mode = Literal["throughput", "latency"]
RequestedPrecision = Literal["auto", Precision]


class ModelSettings(BaseModel):
    """Settings of one model. Each field overrides the setting of the same name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_batch_size: Annotated[int | None, Field(ge=1)] = None
    max_queue_delay_seconds: Annotated[float | None, Field(ge=0, le=10)] = None
    max_queue_size: Annotated[int | None, Field(ge=1)] = None
    instances: Annotated[int | None, Field(ge=1)] = None
    mode: Mode | None = None
    intra_op_num_threads: Annotated[int | None, Field(ge=1)] = None
    deadline_seconds: Annotated[float | None, Field(gt=0)] = None
    precision: RequestedPrecision | None = None
    version_policy: PolicyText | None = None


def parse_names(text: str) -> tuple[str, ...]:
    """Split comma-separated model names; empty text gives none. Raises ValueError."""
    names = tuple(name.strip() for name in text.split(",")) if text.strip() else ()
    for name in names:
        if not is_name(name):
            raise ValueError(f"{name!r} is not a model name; expected names separated by commas")
    return names


def _check_providers(text: str) -> str:
    parse_providers(text)
    return text


def _check_names(text: str | None) -> str | None:
    if text is not None:
        parse_names(text)
    return text


def _check_origins(text: str) -> str:
    parse_origins(text)
    return text


def _parse_models(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except ValueError as error:
        raise ValueError(f"{EXPECTED_MODELS}, but it is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ValueError(EXPECTED_MODELS)  # noqa: TRY004  pydantic's validators raise this
    return parsed


class Settings(BaseSettings):
    """All settings of the service, read from keyword arguments and `SERVICE_*` variables.

    `--max-body-bytes` is `SERVICE_MAX_BODY_BYTES`. Arguments win over variables.
    """

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True)

    host: Annotated[
        str,
        Field(
            description="Address to listen on. 0.0.0.0 accepts clients from the network, :: those "
            "of IPv4 and IPv6."
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Field(
            ge=0,
            le=65535,
            description="TCP port to listen on. 0 picks a free port and prints it.",
        ),
    ] = 8000
    uds: Annotated[
        Path | None,
        BeforeValidator(lambda path: path or None),  # an empty variable is unset
        Field(description="Unix socket to listen on, instead of --host and --port."),
    ] = None
    root_path: Annotated[
        str,
        AfterValidator(parse_root_path),
        Field(
            description="Path under which a proxy publishes the service, like /resident. Requests "
            "are answered with and without it. Links in /docs include it."
        ),
    ] = ""
    cors_origins: Annotated[
        str,
        AfterValidator(_check_origins),
        Field(
            description="Comma-separated origins whose web pages may call the service, like "
            "https://app.example.com, or * for any. Empty: none."
        ),
    ] = ""
    store: Annotated[Path, Field(description="Root directory of the model store.")] = DEFAULT_ROOT
    create_store: Annotated[
        bool, Field(description="Create the directory of the model store if it does not exist.")
    ] = False
    store_poll_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            description="Seconds between checks of the store for new versions and moved aliases. "
            "0 checks only at startup.",
        ),
    ] = 2.0
    builtin: Annotated[
        bool, Field(description="Also serve the models that ship with the project.")
    ] = True
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
            description="Model that answers /v1/predict. Unset: the built-in "
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
    keys: Annotated[
        Path,
        Field(
            description="File of API keys, written by python -m service keys. It must exist. "
            "Unset: keys.json in $XDG_CONFIG_HOME/resident or ~/.config/resident, if it exists."
        ),
    ] = Field(default_factory=default_key_file)
    max_body_bytes: Annotated[
        int, Field(ge=1, description="Largest request body in bytes; larger bodies get 413.")
    ] = 32 * MEBIBYTE
    max_upload_bytes: Annotated[
        int,
        Field(
            ge=1,
            description="Bytes of all request bodies in memory at once; requests beyond that "
            "get 429. At most an eighth of the memory.",
        ),
    ] = 256 * MEBIBYTE
    max_pixels: Annotated[
        int,
        Field(
            ge=1,
            le=PILLOW_MAX_PIXELS,
            description="Largest image in pixels, by its header; larger ones get 413. Decoding "
            "takes up to 16 bytes per pixel. Little memory lowers it, see limits.",
        ),
    ] = DEFAULT_MAX_PIXELS
    max_images: Annotated[int, Field(ge=1, description="Most images in one request.")] = 64
    max_queue_size: Annotated[
        int,
        Field(
            ge=1,
            description="Most images of a model that are queued or running, over all its "
            "versions; requests beyond that get 429.",
        ),
    ] = 512
    max_batch_size: Annotated[
        int | None,
        Field(
            ge=1,
            description="Most images in one batch, limited by the model's own maximum. Unset: the "
            "smallest size with nearly the best throughput, up to 16 on CPU and 32 on GPU.",
        ),
    ] = None
    max_queue_delay_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=10,
            description="Seconds that an image may wait for its batch to fill. Batches fill by "
            "themselves under load, so 0 is usually best.",
        ),
    ] = 0.0
    deadline_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="Seconds until an unanswered request gets 504; its queued images are "
            "dropped.",
        ),
    ] = 30.0
    body_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="Seconds for a client to send its headers, and again to send its body; "
            "slower clients get 408.",
        ),
    ] = 30.0
    drain_delay_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            description="Seconds between SIGTERM and closing the listener. Meanwhile /health/ready "
            "is 503, so that load balancers stop sending requests, and requests are answered.",
        ),
    ] = 0.0
    shutdown_seconds: Annotated[
        int,
        Field(
            ge=0,
            description="Seconds that open requests may take to finish after the listener closed. "
            "Set the kill timeout of your supervisor above this plus the drain delay.",
        ),
    ] = 20
    instances: Annotated[
        int | None,
        Field(
            ge=1,
            description="Concurrent runs of a model. Unset: the container's CPUs divided by the "
            "threads of a run.",
        ),
    ] = None
    mode: Annotated[
        Mode,
        Field(
            description="throughput: many single-threaded runs, for the most images per second. "
            "latency: one run with all threads, for the fastest answer to a single client."
        ),
    ] = "throughput"
    intra_op_num_threads: Annotated[
        int | None,
        Field(
            ge=1,
            description="Threads of one run. Unset: 1 in throughput mode, the container's CPUs in "
            "latency mode.",
        ),
    ] = None
    run_timeout_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=86_400,
            description="Seconds until a run of the model is stopped and its images fail. The "
            "process exits if the run does not stop within 10 s more. 0 disables the timeout.",
        ),
    ] = 60.0
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
    providers: Annotated[
        str,
        AfterValidator(_check_providers),
        Field(
            description="Comma-separated ONNX Runtime execution providers, best first: cpu, "
            "openvino, and the experimental cuda, tensorrt, coreml and migraphx. auto: cuda if it "
            "starts, else cpu."
        ),
    ] = AUTO
    gpu_memory_bytes: Annotated[
        int,
        Field(
            ge=MEBIBYTE,
            description="Most bytes of each GPU's memory for one model's arena. Twice that is in "
            "use while a new version replaces an old one.",
        ),
    ] = 4 * 1024 * MEBIBYTE
    cache: Annotated[
        Path,
        Field(
            default_factory=default_host_cache,
            description="Directory of optimised graphs, engines, trials and tuned settings of this "
            "host. It is safe to delete. Unset: resident in $XDG_CACHE_HOME or ~/.cache.",
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
    precision: Annotated[
        RequestedPrecision,
        Field(
            description="Variant of a version that serves. auto measures and takes the fastest. A "
            "variant that is missing or fails its proof is replaced by fp32."
        ),
    ] = "auto"
    models: Annotated[
        dict[str, ModelSettings],
        NoDecode,  # _parse_models explains what is wrong; pydantic-settings' own decoder does not
        BeforeValidator(_parse_models),
        Field(
            description='Settings of single models as JSON, like {"resnet50": {"instances": 1}}. '
            f"Fields: {', '.join(ModelSettings.model_fields)}.",
        ),
    ] = {}
    decode_workers: Annotated[
        int | None,
        Field(
            ge=1,
            description="Processes that decode images, and half as many for large ones. "
            "Unset: the container's CPUs, or fewer if memory is short.",
        ),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Field(description="Least severe level that is logged to stderr."),
    ] = "info"
    access_log: Annotated[
        bool,
        Field(description="Log one line per request; costs some throughput at full load."),
    ] = True

    @property
    def served_default_model(self) -> str | None:
        """The model that answers /v1/predict, set or built-in; None if there is neither."""
        return self.default_model or (BUILTIN_DEFAULT_MODEL if self.builtin else None)

    def version_policy_of(self, model: str) -> VersionPolicy:
        own = self.models.get(model)
        return parse_policy((own and own.version_policy) or self.version_policy)
