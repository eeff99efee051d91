"""What the service and its models are, in the terms of the protocol."""

from collections.abc import Sequence
from typing import Final

from model_store import __version__
from model_store.manifest import MODEL_INPUT
from model_store.providers import MIGRAPHX, NVIDIA
from service.engine.loaded_version import LoadedVersion
from service.protocols.open_inference.images import pixel_shape
from service.protocols.open_inference.outputs import output_names, output_shape
from service.protocols.open_inference.schemas import (
    ConfigTensor,
    DynamicBatching,
    InstanceGroup,
    ModelConfig,
    ModelMetadata,
    Reshape,
    ServerMetadata,
    TensorMetadata,
)
from service.protocols.open_inference.tensors import BYTES, UINT8
from service.versions.registry import Registry

SERVER_NAME: Final = "resident"
EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
PLATFORM: Final = "onnxruntime_onnx"
BACKEND: Final = "onnxruntime"
ENCODED_IMAGES: Final = "BYTES [-1]: JPEG, PNG and other encoded images; in JSON as base64"
_CONFIG_TYPES: Final = {BYTES: "TYPE_STRING", UINT8: "TYPE_UINT8", "FP32": "TYPE_FP32"}


def describe_server() -> ServerMetadata:
    return ServerMetadata(name=SERVER_NAME, version=__version__, extensions=list(EXTENSIONS))


def describe_metadata(loaded: LoadedVersion, registry: Registry) -> ModelMetadata:
    """Inputs and outputs. The first dimension is the number of images."""
    model = registry.models.get(loaded.version.model)
    served = sorted(model.serving) if model else [loaded.version.number]
    outputs = [
        TensorMetadata(name=name, datatype=datatype, shape=[-1, *shape])
        for name in output_names(loaded)
        for datatype, shape in [output_shape(name, loaded)]
    ]
    return ModelMetadata(
        name=loaded.version.model,
        versions=[str(number) for number in served],
        platform=PLATFORM,
        inputs=[TensorMetadata(name=MODEL_INPUT, datatype=UINT8, shape=[-1, *pixel_shape(loaded)])],
        outputs=outputs,
        properties={f"{MODEL_INPUT}_also_as": ENCODED_IMAGES},
    )


def describe_config(loaded: LoadedVersion) -> ModelConfig:
    """The configuration. `max_batch_size` is of one run: a request may have more images."""
    on_gpu = loaded.options.session.providers[0] in {*NVIDIA, MIGRAPHX}
    return ModelConfig(
        name=loaded.version.model,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=loaded.max_batch_size,
        input=[_config_tensor(MODEL_INPUT, UINT8, pixel_shape(loaded))],
        output=[
            _config_tensor(name, datatype, shape)
            for name in output_names(loaded)
            for datatype, shape in [output_shape(name, loaded)]
        ],
        instance_group=[
            InstanceGroup(kind="KIND_GPU" if on_gpu else "KIND_CPU", count=loaded.options.instances)
        ],
        dynamic_batching=DynamicBatching(
            max_queue_delay_microseconds=round(loaded.options.max_queue_delay_seconds * 1e6)
        ),
    )


def _config_tensor(name: str, datatype: str, shape: Sequence[int]) -> ConfigTensor:
    """One value for each image is a dimension of 1 here, because Triton allows no empty `dims`."""
    dims, reshape = list(shape) or [1], None if shape else Reshape(shape=[])
    return ConfigTensor(name=name, data_type=_CONFIG_TYPES[datatype], dims=dims, reshape=reshape)
