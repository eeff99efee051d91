"""A foreign ONNX file: read, and refused with the reason where it is not one image classifier's."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, defs, inliner, shape_inference, version_converter

from model_store.files import sha256_of
from training.errors import ForeignModelError
from training.importing.input_spec import DTYPES

ONNX_DOMAINS: Final = frozenset({"", "ai.onnx"})
RUNTIME_DOMAINS: Final = frozenset({"com.microsoft"})
_NEWEST: Final = defs.onnx_opset_version()
NOT_CONVERTED: Final = (
    onnx.checker.ValidationError,
    shape_inference.InferenceError,
    version_converter.ConvertError,
)
MAX_BYTES: Final = 2**31 - 1  # protobuf's limit for a message, and so for a model in one file
Shape = tuple[int | None, ...]
"""Sizes by axis; None where an axis is free."""


@dataclass(frozen=True)
class Value:
    """An input or output: its name, TensorProto's element type, and its shape where the file says one."""

    name: str
    dtype: int
    shape: Shape | None

    def __str__(self) -> str:
        shape = "of unknown shape" if self.shape is None else [size or "?" for size in self.shape]
        return f"{self.name} ({TensorProto.DataType.Name(self.dtype).lower()} {shape})"


@dataclass(frozen=True)
class ForeignFile:
    """A file that can be parsed: one image in, tensors out; its weights and its own functions are written out in the graph.

    `weights` are the files beside it that hold some.
    """

    path: Path
    proto: onnx.ModelProto
    input: Value
    outputs: tuple[Value, ...]
    weights: tuple[Path, ...] = ()

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators that the file is written with."""
        return next(
            (entry.version for entry in self.proto.opset_import if entry.domain in ONNX_DOMAINS), 1
        )

    def sha256(self) -> str:
        """What the manifest's `imported` says: a change of any file that was read changes it."""
        digests = [
            sha256_of(path.resolve()) for path in (self.path, *self.weights)
        ]  # the file itself may be a link
        return (
            digests[0]
            if len(digests) == 1
            else hashlib.sha256("".join(f"{each}\n" for each in digests).encode()).hexdigest()
        )


def read_foreign(path: Path) -> ForeignFile:
    """Parse the file, load what it keeps beside itself and write out its own functions. Raises ForeignModelError."""
    proto = _parse(path)
    weights = _load_external_data(path, proto)
    proto = _inlined(path, proto)
    _check_names(path, proto.graph)
    _check_operators(path, proto)
    constants = {constant.name for constant in proto.graph.initializer}
    inputs = [
        _value(path, "input", entry) for entry in proto.graph.input if entry.name not in constants
    ]
    if len(inputs) != 1:
        listed = "; ".join(map(str, inputs)) or "none"
        raise ForeignModelError(
            f"{path} takes {len(inputs)} inputs, and an image classifier takes one, the image: {listed}"
        )
    if inputs[0].dtype not in DTYPES:
        raise ForeignModelError(
            f"{path}: the input {inputs[0]} is no image: expected floats or uint8"
        )
    if inputs[0].shape is not None and len(inputs[0].shape) != 4:
        raise ForeignModelError(
            f"{path}: the input {inputs[0]} is no batch of images, which has four axes"
        )
    outputs = tuple(_value(path, "output", entry) for entry in proto.graph.output)
    if not outputs:
        raise ForeignModelError(f"{path} has no output")
    return ForeignFile(path, proto, inputs[0], outputs, weights)


def _parse(path: Path) -> onnx.ModelProto:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ForeignModelError(
                f"{path} is larger than 2 GB, which no ONNX file in one piece can be"
            )
        proto = onnx.load_model(path, load_external_data=False, format="protobuf")
    except OSError as error:
        raise ForeignModelError(f"{path} can not be read: {error.strerror}") from None
    except (DecodeError, UnicodeDecodeError):
        raise ForeignModelError(f"{path} is no ONNX file: it can not be parsed as one") from None
    if not proto.graph.node or (not proto.opset_import and not proto.ir_version):
        raise ForeignModelError(f"{path} is no ONNX model: it holds no graph")
    return proto


def _load_external_data(path: Path, proto: onnx.ModelProto) -> tuple[Path, ...]:
    """Bring weights that lie beside the file into it; from nowhere but the file's own folder, and through no link.

    Returns the files that they lay in, in the order of their paths.
    """
    folder = path.parent.resolve()
    names = set()
    for tensor in onnx.external_data_helper._get_all_tensors(proto):  # noqa: SLF001
        if tensor.data_location == TensorProto.EXTERNAL:
            names |= {
                os.fsdecode(entry.value)
                for entry in tensor.external_data
                if entry.key == "location"
            } or {""}
    files = set()
    for name in sorted(names):
        beside = Path(os.path.abspath(folder / name))
        if not name or not beside.is_relative_to(folder) or beside == folder:
            raise ForeignModelError(
                f"{path} keeps weights in {name!r}, outside its own folder; only files beside it are read"
            )
        if not os.path.lexists(beside):
            raise ForeignModelError(
                f"{path} keeps its weights in {name!r}, which does not lie beside it; copy it there too"
            )
        if beside.resolve() != beside or not stat.S_ISREG(beside.lstat().st_mode):
            raise ForeignModelError(
                f"{path} keeps weights in {name!r}, which is a link or no plain file; only files are read"
            )
        files.add(beside)
    if (total := sum(file.stat().st_size for file in (path, *files))) > MAX_BYTES:
        raise ForeignModelError(
            f"{path} and its weights have {total / 1e9:.1f} GB; a version holds a model of at most 2 GB"
        )
    try:
        onnx.load_external_data_for_model(proto, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ForeignModelError(f"{path}: the weights beside it can not be read: {error}") from None
    return tuple(sorted(files))


def _inlined(path: Path, proto: onnx.ModelProto) -> onnx.ModelProto:
    """Functions of the file's own, as torch and Keras write them, as the steps that they are made of."""
    if not proto.functions:
        return proto
    try:
        return inliner.inline_local_functions(proto, convert_version=True)
    except (*NOT_CONVERTED, RuntimeError) as error:
        raise ForeignModelError(
            f"{path}: its own functions can not be written out: {str(error).splitlines()[0]}"
        ) from None


def _check_names(path: Path, graph: onnx.GraphProto) -> None:
    """Protobuf gives names that are no UTF-8 as bytes, and nothing after this could say which."""
    names = [
        text
        for node in graph.node
        for text in (node.domain, node.op_type, *node.input, *node.output)
    ]
    names += [entry.name for entry in (*graph.input, *graph.output, *graph.initializer)]
    if broken := [name for name in names if not isinstance(name, str)]:
        raise ForeignModelError(f"{path} is no sound ONNX model: the name {broken[0]!a} is no text")


def _check_operators(path: Path, proto: onnx.ModelProto) -> None:
    versions = {
        "" if entry.domain in ONNX_DOMAINS else entry.domain: entry.version
        for entry in proto.opset_import
    }
    unknown = set()
    for node in proto.graph.node:
        domain = "" if node.domain in ONNX_DOMAINS else node.domain
        if domain in RUNTIME_DOMAINS:
            continue
        version = min(versions.get(domain, 1), _NEWEST)
        if not defs.has(node.op_type, max_inclusive_version=version, domain=domain):
            unknown.add(f"{domain}::{node.op_type}" if domain else node.op_type)
        elif len(node.input) < defs.get_schema(node.op_type, version, domain).min_input:
            raise ForeignModelError(
                f"{path} is no sound ONNX model: it gives {node.op_type} {len(node.input)} inputs, too few for it"
            )
    if unknown:
        raise ForeignModelError(
            f"{path} uses operators that opset {versions.get('', 1)} does not have: {', '.join(sorted(unknown))}; "
            "export it again without custom operators"
        )


def _value(path: Path, kind: str, entry: onnx.ValueInfoProto) -> Value:
    if entry.type.WhichOneof("value") != "tensor_type":
        raise ForeignModelError(
            f"{path}: the {kind} {entry.name} is no tensor (a {entry.type.WhichOneof('value') or 'value of no type'}); "
            "export the network without what turns its answer into lists or dictionaries"
        )
    tensor = entry.type.tensor_type
    if tensor.elem_type not in TensorProto.DataType.values():
        raise ForeignModelError(
            f"{path}: the {kind} {entry.name} is of element type {tensor.elem_type}, which ONNX does not have"
        )
    shape = (
        tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
        if tensor.HasField("shape")
        else None
    )
    return Value(entry.name, tensor.elem_type, shape)
