"""Converts a graph to fp16 or bf16. Its input stays uint8, and its outputs stay float32."""

from collections.abc import Iterable
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.errors import QuantizationError
from training.quantization.graph import layers_of, preamble_of, read_graph, rename_input

HalfPrecision = Literal["fp16", "bf16"]
_TYPES: Final[dict[HalfPrecision, int]] = {
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}
_FLOAT: Final = TensorProto.FLOAT
BF16_OPSET: Final = 22  # the first opset whose Conv and pooling support bfloat16


def convert_to_half(data: bytes, precision: HalfPrecision) -> bytes:
    """Convert the first layer and everything after it to `precision`.

    The preamble stays in fp32, because grey levels need its range. Raises QuantizationError if an
    operator does not support the precision.
    """
    model, kind = read_graph(data), _TYPES[precision]
    if precision == "bf16":
        model = _with_opset_at_least(model, BF16_OPSET)
    layers_of(model)
    outside = frozenset(preamble_of(model))
    inside = frozenset(node.name for node in model.graph.node) - outside
    _convert_constants(model, outside, kind)
    _cast_preamble_outputs(model, outside, inside, kind)
    _cast_outputs(model)
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise QuantizationError(
            f"the graph cannot run in {precision}: {str(error).strip().splitlines()[0]}; choose "
            "another --precision"
        ) from None
    converted: bytes = model.SerializeToString(deterministic=True)
    return converted


def _with_opset_at_least(model: Any, opset: int) -> Any:
    own = next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
    return model if own >= opset else onnx.version_converter.convert_version(model, opset)


def _convert_constants(model: Any, outside: frozenset[str], kind: int) -> None:
    """Convert constants and casts of the layers; constants shared with the preamble are copied."""
    shared = {name for node in model.graph.node if node.name in outside for name in node.input}
    inside = frozenset(node.name for node in model.graph.node) - outside
    for tensor in list(model.graph.initializer):
        if tensor.data_type == _FLOAT and tensor.name not in shared:
            tensor.CopyFrom(_to_half_tensor(numpy_helper.to_array(tensor), tensor.name, kind))
        elif tensor.data_type == _FLOAT and any(
            tensor.name in node.input for node in model.graph.node if node.name in inside
        ):
            own = f"{tensor.name} in half"
            model.graph.initializer.append(
                _to_half_tensor(numpy_helper.to_array(tensor), own, kind)
            )
            rename_input(model, tensor.name, own, inside)
    for node in model.graph.node:
        if node.name in outside:
            continue
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
                attribute.i = kind
            elif attribute.HasField("t") and attribute.t.data_type == _FLOAT:
                attribute.t.CopyFrom(
                    _to_half_tensor(numpy_helper.to_array(attribute.t), attribute.t.name, kind)
                )


def _to_half_tensor(values: NDArray[Any], name: str, kind: int) -> Any:
    if kind == TensorProto.FLOAT16:
        # Values outside the range become infinite. The checks detect them.
        return numpy_helper.from_array(values.astype(np.float16), name)
    return helper.make_tensor(name, kind, values.shape, values.ravel())


def _cast_preamble_outputs(
    model: Any, outside: frozenset[str], inside: frozenset[str], kind: int
) -> None:
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(_without_types(model)).graph.value_info
    }
    used = {name for node in model.graph.node if node.name in inside for name in node.input}
    producer_names = {
        name: node.name for node in model.graph.node if node.name in outside for name in node.output
    }
    for name in [
        name for name in producer_names if name in used and types.get(name, _FLOAT) == _FLOAT
    ]:
        rename_input(model, name, f"{name} in half", inside)
        _insert_after(
            model,
            producer_names[name],
            helper.make_node("Cast", [name], [f"{name} in half"], name=f"{name} to half", to=kind),
        )


def _without_types(model: Any) -> Any:
    """A copy without type information, because the layers' types have changed."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    del bare.graph.output[:]
    return bare


def _cast_outputs(model: Any) -> None:
    """Cast outputs back to float32 and keep their names."""
    for output in model.graph.output:
        if output.type.tensor_type.elem_type != _FLOAT:
            continue
        half = f"{output.name} in half"
        for node in model.graph.node:
            node.input[:] = _renamed(node.input, output.name, half)
            node.output[:] = _renamed(node.output, output.name, half)
        model.graph.node.append(
            helper.make_node(
                "Cast", [half], [output.name], name=f"{output.name} to float", to=_FLOAT
            )
        )


def _renamed(names: Iterable[str], old: str, new: str) -> list[str]:
    return [new if name == old else name for name in names]


def _insert_after(model: Any, name: str, node: Any) -> None:
    place = next(number for number, other in enumerate(model.graph.node) if other.name == name)
    model.graph.node.insert(place + 1, node)
