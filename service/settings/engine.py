"""Settings of runs of models: batches, instances, threads, providers and precision."""

import json
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode

from model_store.manifest import Precision
from model_store.providers import AUTO, parse_providers
from service.settings.units import MEBIBYTE
from service.versions.version_policy import PolicyText

EXPECTED_MODELS: Final = (
    'expected a JSON object of settings by model name, like {"resnet50": {"instances": 1}}'
)
Mode = Literal["auto", "throughput", "latency"]
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


def _check_providers(text: str) -> str:
    parse_providers(text)
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


class EngineSettings(BaseModel):
    """How models run."""

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
            "latency: one run with all threads, for the fastest answer to a single client. "
            "auto: as throughput, but an image that arrives while no other is queued or running "
            "gets all threads, if the warm-up shows that this is faster."
        ),
    ] = "auto"
    intra_op_num_threads: Annotated[
        int | None,
        Field(
            ge=1,
            description="Threads of every run. Unset: the container's CPUs in latency mode, 1 in "
            "the other modes.",
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
