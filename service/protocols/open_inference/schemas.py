"""The documents of the routes. Their descriptions are in the OpenAPI document."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from model_store.manifest import MODEL_INPUT
from model_store.validation import DeferredModel, to_whole_number
from service.http.json_body import RED_PIXEL
from service.protocols.open_inference.parameters import MAX_ID_LENGTH
from service.protocols.open_inference.tensors import BYTES, UINT8

Parameter = bool | int | float | str
Dimension = Annotated[int, Field(ge=0, le=2**63 - 1, strict=True), BeforeValidator(to_whole_number)]
_WHOLE_NUMBER: Final = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_FLAG: Final = {"type": "boolean"}


def _parameters(description: str, **known: dict[str, Any]) -> Any:
    """A field of parameters. Other names than the known ones are ignored."""
    extra: dict[str, Any] = {"properties": known}
    return Field(description=description, json_schema_extra=extra)


class OpenInferenceError(DeferredModel):
    """Any failure of these routes."""

    error: str


class RequestInput(DeferredModel):
    """A tensor of a request. Its content is `data`, or follows the JSON as bytes."""

    name: Annotated[
        str,
        Field(
            strict=True, description="Always `images`.", json_schema_extra={"const": MODEL_INPUT}
        ),
    ]
    shape: Annotated[
        list[Dimension],
        Field(
            description="`[n, height, width, 3]` for `UINT8`, `[n]` for `BYTES`.",
            json_schema_extra={"minItems": 1, "maxItems": 4},
        ),
    ]
    datatype: Annotated[
        str,
        Field(
            strict=True,
            description="`UINT8`: pixels of the model's size, RGB. `BYTES`: encoded images.",
            json_schema_extra={"enum": [UINT8, BYTES]},
        ),
    ]
    parameters: Annotated[
        dict[str, Parameter],
        _parameters("`binary_data_size`: bytes after the JSON.", binary_data_size=_WHOLE_NUMBER),
    ] = {}
    data: Annotated[
        Any,
        Field(
            description="Numbers, flat or nested; for `BYTES`, images in base64. Absent if "
            "`binary_data_size` is a parameter."
        ),
    ] = None


class RequestOutput(DeferredModel):
    """An output to return."""

    name: Annotated[
        str,
        Field(
            strict=True,
            json_schema_extra={"enum": ["probabilities", "logits", "embedding", "labels"]},
        ),
    ]
    parameters: Annotated[
        dict[str, Parameter],
        _parameters(
            "`classification`: number of classes. `binary_data`: as bytes.",
            classification=_WHOLE_NUMBER,
            binary_data=_FLAG,
        ),
    ] = {}


class InferBody(DeferredModel):
    """The JSON of an inference request."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "inputs": [
                    {"name": MODEL_INPUT, "datatype": BYTES, "shape": [1], "data": [RED_PIXEL]}
                ],
                "outputs": [{"name": "labels"}],
            }
        }
    )

    id: Annotated[
        str | None,
        Field(strict=True, max_length=MAX_ID_LENGTH, description="Returned in the response."),
    ] = None
    parameters: Annotated[
        dict[str, Parameter],
        _parameters(
            "`priority`: 0 and 1 are interactive, more is bulk. `timeout`: microseconds. "
            "`binary_data_output`: outputs as bytes.",
            priority=_WHOLE_NUMBER,
            timeout=_WHOLE_NUMBER,
            binary_data_output=_FLAG,
        ),
    ] = {}
    inputs: Annotated[list[RequestInput], Field(json_schema_extra={"minItems": 1, "maxItems": 1})]
    outputs: Annotated[
        list[RequestOutput] | None, Field(description="Absent or empty: all outputs.")
    ] = None


class ResponseOutput(DeferredModel):
    """A tensor of a response."""

    name: str
    datatype: Literal["FP32", "BYTES"]
    shape: list[int]
    parameters: Annotated[
        dict[str, Parameter] | None,
        Field(description="`binary_data_size`: bytes of this tensor after the JSON."),
    ] = None
    data: Annotated[
        list[float] | list[str] | None, Field(description="Elements in row-major order.")
    ] = None


class InferAnswer(DeferredModel):
    """The JSON of an inference response."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]


class ServerMetadata(DeferredModel):
    """Name, version and extensions of the service."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(DeferredModel):
    """An input or output. The first dimension is the number of images."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(DeferredModel):
    """Inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    properties: dict[str, str]


class ServerLiveness(DeferredModel):
    live: bool


class ServerReadiness(DeferredModel):
    ready: bool


class ModelReadiness(DeferredModel):
    name: str
    ready: bool


class Reshape(DeferredModel):
    shape: list[int]


class ConfigTensor(DeferredModel):
    """An input or output, without the dimension of the images."""

    name: str
    data_type: str
    dims: list[int]
    reshape: Reshape | None = None


class InstanceGroup(DeferredModel):
    kind: Literal["KIND_CPU", "KIND_GPU"]
    count: int


class DynamicBatching(DeferredModel):
    max_queue_delay_microseconds: int


class ModelConfig(DeferredModel):
    """The configuration of a model, as far as it has the terms of Triton's."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    instance_group: list[InstanceGroup]
    dynamic_batching: DynamicBatching


class StatisticDuration(DeferredModel):
    """How often something happened, and nanoseconds of all times together."""

    count: int = 0
    ns: int = 0


class InferStatistics(DeferredModel):
    """Successful and failed requests, and the stages of the successful ones."""

    success: StatisticDuration
    fail: StatisticDuration
    queue: StatisticDuration
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration
    cache_hit: StatisticDuration = StatisticDuration()
    cache_miss: StatisticDuration = StatisticDuration()


class BatchStatistics(DeferredModel):
    """The runs with one batch size."""

    batch_size: int
    compute_input: StatisticDuration = StatisticDuration()
    compute_infer: StatisticDuration
    compute_output: StatisticDuration = StatisticDuration()


class ModelStatistics(DeferredModel):
    """Counts and times of one version since it was first used."""

    name: str
    version: str
    last_inference: Annotated[int, Field(description="Milliseconds since 1970; 0 for never.")]
    inference_count: Annotated[int, Field(description="Images.")]
    execution_count: Annotated[int, Field(description="Batches, since the version was loaded.")]
    inference_stats: InferStatistics
    response_stats: dict[str, Any] = {}
    batch_stats: list[BatchStatistics]
    memory_usage: list[Any] = []


class StatisticsAnswer(DeferredModel):
    model_stats: list[ModelStatistics]


class RepositoryQuery(DeferredModel):
    """The optional body of an index request."""

    ready: Annotated[bool, Field(strict=True, description="Only versions that serve.")] = False


class RepositoryModel(DeferredModel):
    """A version in the store or in this process."""

    name: str
    version: str | None = None
    state: str
    reason: str


class RepositoryChange(DeferredModel):
    """The optional body of a load or unload request."""

    parameters: Annotated[
        dict[str, Any],
        Field(
            description="`unload_dependents` has no effect. Others are rejected.",
            json_schema_extra={
                "properties": {"unload_dependents": _FLAG},
                "additionalProperties": False,
            },
        ),
    ] = {}
