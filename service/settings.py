"""The service's settings: each one a variable, a flag, and a sentence of advice."""

import json
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model_store.host_cache import default_host_cache
from model_store.manifest import Precision
from model_store.names import is_name
from model_store.preprocessing import DEFAULT_MAX_PIXELS, PILLOW_MAX_PIXELS
from model_store.providers import AUTO, parse_providers
from model_store.store import DEFAULT_ROOT
from service.http.api_keys import default_path
from service.versions.version_policy import PolicyText

MEBIBYTE = 1024 * 1024
EXPECTED_MODELS: Final = 'expected a JSON object with a model\'s settings by its name, like {"resnet50": {"instances": 1}}'


Mode = Literal["throughput", "latency"]
RequestedPrecision = Literal["auto", Precision]


class ModelSettings(BaseModel):
    """What one model has otherwise than all: each field overrides the setting of its name."""

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


def check_providers(text: str) -> str:
    """The text as it came. Raises ValueError where ONNX Runtime knows no such provider."""
    parse_providers(text)
    return text


def parse_names(text: str) -> tuple[str, ...]:
    """The names in a text like `one, two`; an empty one has none. Raises ValueError where one is no name of a model."""
    names = tuple(name.strip() for name in text.split(",")) if text.strip() else ()
    for name in names:
        if not is_name(name):
            raise ValueError(
                f"{name!r} is no name of a model; expected names with commas between them"
            )
    return names


def parse_models(value: object) -> object:
    """The object of a JSON text; what is no text as it came. Raises ValueError where the text is no JSON object."""
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except ValueError as error:
        raise ValueError(f"{EXPECTED_MODELS}; this is no JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ValueError(EXPECTED_MODELS)  # noqa: TRY004  pydantic's validators raise this
    return parsed


def check_names(text: str | None) -> str | None:
    """The text as it came. Raises as `parse_names` does."""
    if text is not None:
        parse_names(text)
    return text


class Settings(BaseSettings):
    """Serve the models of a store over HTTP. Every flag is also a variable: --max-body-bytes is SERVICE_MAX_BODY_BYTES.

    Other commands: python -m service keys, bench, tune; each has its own --help.
    """

    model_config = SettingsConfigDict(
        env_prefix="SERVICE_",
        frozen=True,
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    host: Annotated[
        str, Field(description="Address to listen on. 0.0.0.0 opens the service to your network.")
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it."),
    ] = 8000
    store: Annotated[
        Path,
        Field(
            description="The model store's root. The built-in models lie under it, so an empty one serves too."
        ),
    ] = DEFAULT_ROOT
    store_poll_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            description="How often the store is looked at for new versions and moved aliases. 0 looks only at the start.",
        ),
    ] = 2.0
    builtin: Annotated[
        bool, Field(description="Also serve the models that ship with the project.")
    ] = True
    version_policy: Annotated[
        PolicyText,
        Field(
            description="Which versions of a model serve: alias:production (what the alias names, else the newest), "
            "latest:2, versions:1,4 or all. Every version costs memory."
        ),
    ] = "alias:production"
    default_model: Annotated[
        str | None,
        Field(
            description="The model of /v1/predict. Unset: your only published model, or the built-in one where there is none."
        ),
    ] = None
    required_models: Annotated[
        str | None,
        AfterValidator(check_names),
        Field(
            description="The models without which this replica is not ready, with commas; the last version of one is not unloaded. "
            "Unset: those that serve once the service has started. Empty: any one is enough."
        ),
    ] = None
    keys: Annotated[
        Path,
        Field(
            description="The file of keys that python -m service keys writes. Without a key of scope manage no one loads or "
            "promotes over HTTP; with one of scope predict, predicting needs one too."
        ),
    ] = Field(default_factory=default_path)
    max_body_bytes: Annotated[
        int,
        Field(
            ge=1,
            description="Largest request body. A phone's photo has 3 to 12 MB; base64 adds a third.",
        ),
    ] = 32 * MEBIBYTE
    max_upload_bytes: Annotated[
        int,
        Field(
            ge=1,
            description="Bytes of all bodies held at once; more is refused before it is read. Bounds memory.",
        ),
    ] = 256 * MEBIBYTE
    max_pixels: Annotated[
        int,
        Field(
            ge=1,
            le=PILLOW_MAX_PIXELS,
            description="Pixels of one image, by its header. A decode worker needs up to 16 bytes for each.",
        ),
    ] = DEFAULT_MAX_PIXELS
    max_images: Annotated[
        int,
        Field(ge=1, description="Images in one request. Clients with more send several requests."),
    ] = 64
    max_queue_size: Annotated[
        int,
        Field(
            ge=1,
            description="Images of a model's open requests, of all its versions. More get 429 instead of waiting in vain.",
        ),
    ] = 512
    max_batch_size: Annotated[
        int | None,
        Field(
            ge=1,
            description="Upper bound of a batch; the model's own counts where it is lower. Unset: the smallest that has "
            "nearly the most images a second here, up to 16 on a CPU and 32 elsewhere.",
        ),
    ] = None
    max_queue_delay_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=10,
            description="How long a batch may wait to fill. Leave it 0: batches grow by themselves under load.",
        ),
    ] = 0.0
    deadline_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="A request that is not answered by then gets 504, and its images are not computed.",
        ),
    ] = 30.0
    body_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="How long a client may take over its headers, and then over its body; slow senders get 408.",
        ),
    ] = 30.0
    shutdown_seconds: Annotated[
        int,
        Field(
            ge=0,
            description="How long open requests may take to end after SIGTERM. Below your supervisor's kill time; a load "
            "of a version that is under way is waited for beyond it.",
        ),
    ] = 20
    instances: Annotated[
        int | None,
        Field(
            ge=1,
            description="Concurrent runs of a model. Unset: the container's CPUs over the threads of a run.",
        ),
    ] = None
    mode: Annotated[
        Mode,
        Field(
            description="throughput: several runs at a time of one thread each, the most images a second. latency: one run at a "
            "time with all threads, the fastest answer to a lone client."
        ),
    ] = "throughput"
    intra_op_num_threads: Annotated[
        int | None,
        Field(
            ge=1,
            description="Threads of one run. Unset: as the mode has it, 1 or one a CPU of the container.",
        ),
    ] = None
    run_timeout_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=86_400,
            description="A run of the model that takes longer is ended and its images get an error; where it does not end within "
            "10 s more the process exits, for its supervisor to restart. 0 waits for ever.",
        ),
    ] = 60.0
    providers: Annotated[
        str,
        AfterValidator(check_providers),
        Field(
            description="ONNX Runtime's execution providers, best first, separated by commas: cpu, "
            "openvino, and the experimental cuda, tensorrt, coreml and migraphx. auto is cuda if it "
            "starts, else cpu. A named provider that does not start is an error."
        ),
    ] = AUTO
    gpu_memory_bytes: Annotated[
        int,
        Field(
            ge=MEBIBYTE,
            description="The most that one model takes of each GPU for its arena. Twice that while versions swap.",
        ),
    ] = 4 * 1024 * MEBIBYTE
    cache: Annotated[
        Path,
        Field(
            default_factory=default_host_cache,
            description="Directory for what this host need find out only once: optimised graphs, engines, what `tune` chose. Makes "
            "starts faster and smaller. Safe to delete; only you may be able to write to it. "
            "Unset: resident in $XDG_CACHE_HOME or ~/.cache.",
        ),
    ]
    cache_max_bytes: Annotated[
        int,
        Field(
            ge=0,
            description="The most that optimised graphs take of the cache; the one unused longest goes first. 0: none.",
        ),
    ] = 2 * 1024 * MEBIBYTE
    precision: Annotated[
        RequestedPrecision,
        Field(
            description="Which variant of a version answers: auto takes the fastest that holds here, measured as it loads; one "
            "that is named and lacking, or fails here, gives way to fp32. Name one where replicas must answer alike."
        ),
    ] = "auto"
    models: Annotated[
        dict[str, ModelSettings],
        NoDecode,  # by itself a flag would take [] for {}
        BeforeValidator(parse_models),
        Field(
            description='Settings of single models, as JSON: {"resnet50": {"instances": 1, "mode": "latency"}}. Taken are '
            "max_batch_size, max_queue_delay_seconds, max_queue_size, instances, mode, intra_op_num_threads, deadline_seconds, "
            "precision, version_policy.",
        ),
    ] = {}
    decode_workers: Annotated[
        int | None,
        Field(
            ge=1, description="Threads that decode large images. Unset: one a CPU of the container."
        ),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Field(description="How much is logged to stderr."),
    ] = "info"
    access_log: Annotated[
        bool, Field(description="One log line a request; costs some throughput under full load.")
    ] = True

    def version_policy_of(self, model: str) -> str:
        """The version policy of one model: its own, or that of all models."""
        own = self.models.get(model)
        return (own and own.version_policy) or self.version_policy
