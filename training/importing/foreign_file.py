"""Reads an ONNX file, and rejects it with a reason if it is not an image classifier."""

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
from training.importing.graph_walk import GraphWalker, attribute
from training.importing.input_spec import DTYPES

ONNX_DOMAINS: Final = frozenset({"", "ai.onnx"})
RUNTIME_DOMAINS: Final = frozenset({"com.microsoft"})
_NEWEST_OPSET: Final = defs.onnx_opset_version()
CONVERSION_ERRORS: Final = (
    onnx.checker.ValidationError,
    shape_inference.InferenceError,
    version_converter.ConvertError,
)
MAX_MODEL_BYTES: Final = 2**31 - 1  # protobuf's limit for a message
Shape = tuple[int | None, ...]
"""One size per axis; None for a free axis."""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of the graph.

    `dtype` is TensorProto's element type; `shape` is None if the file does not state it.
    """

    name: str
    dtype: int
    shape: Shape | None

    def __str__(self) -> str:
        shape = "of unknown shape" if self.shape is None else [size or "?" for size in self.shape]
        return f"{self.name} ({TensorProto.DataType.Name(self.dtype).lower()} {shape})"


@dataclass(frozen=True)
class ForeignFile:
    """A parsed file with one image input; external weights and local functions are inlined.

    `weights` are the files that held external weights.
    """

    path: Path
    proto: onnx.ModelProto
    input: TensorInfo
    outputs: tuple[TensorInfo, ...]
    weights: tuple[Path, ...] = ()

    @property
    def opset(self) -> int:
        return next(
            (entry.version for entry in self.proto.opset_import if entry.domain in ONNX_DOMAINS), 1
        )

    def sha256(self) -> str:
        """SHA-256 of the file. With external weights: SHA-256 of the list of all files' digests."""
        digests = [sha256_of(path.resolve()) for path in (self.path, *self.weights)]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def read_foreign_file(path: Path) -> ForeignFile:
    """Parse the file, load its external weights and inline its functions.

    Raises ForeignModelError if the file is not valid ONNX, or not an image classifier.
    """
    proto = _parse(path)
    weights = _load_external_data(path, proto)
    proto = _inline_functions(path, proto)
    _check_names(path, proto.graph)
    _check_operators(path, proto)
    _check_batch_norms(path, proto.graph)
    constants = {constant.name for constant in proto.graph.initializer}
    inputs = [
        _tensor_info(path, "input", entry)
        for entry in proto.graph.input
        if entry.name not in constants
    ]
    if len(inputs) != 1:
        listed = "; ".join(map(str, inputs)) or "none"
        raise ForeignModelError(
            f"{path} takes {len(inputs)} inputs, expected 1, the image: {listed}; export the "
            "network for images only"
        )
    if inputs[0].dtype not in DTYPES:
        raise ForeignModelError(
            f"{path}: the input {inputs[0]} is not an image, expected floats or uint8; export an "
            "image classifier"
        )
    if inputs[0].shape is not None and len(inputs[0].shape) != 4:
        raise ForeignModelError(
            f"{path}: the input {inputs[0]} is not a batch of images, expected 4 axes; export an "
            "image classifier"
        )
    outputs = tuple(_tensor_info(path, "output", entry) for entry in proto.graph.output)
    if not outputs:
        raise ForeignModelError(
            f"{path} has no output, expected one score per class; export it again"
        )
    return ForeignFile(path, proto, inputs[0], outputs, weights)


def _parse(path: Path) -> onnx.ModelProto:
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise ForeignModelError(
                f"{path} is larger than 2 GB, the limit of an ONNX file; a version cannot hold it"
            )
        proto = onnx.load_model(path, load_external_data=False, format="protobuf")
    except OSError as error:
        raise ForeignModelError(f"{path} cannot be read: {error.strerror}") from None
    except (DecodeError, UnicodeDecodeError):
        raise ForeignModelError(
            f"{path} is not an ONNX file, or is cut off; copy or export it again"
        ) from None
    if not proto.graph.node or (not proto.opset_import and not proto.ir_version):
        raise ForeignModelError(f"{path} is not an ONNX file: it has no graph; export it again")
    return proto


def _load_external_data(path: Path, proto: onnx.ModelProto) -> tuple[Path, ...]:
    """Load external weights into the model, from plain files in the file's own folder only.

    Returns these files, sorted by path.
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
        location = Path(os.path.abspath(folder / name))
        if not name or not location.is_relative_to(folder) or location == folder:
            raise ForeignModelError(
                f"{path} has weights in {name!r}, outside its own folder; move them beside it and "
                "export it again"
            )
        if not os.path.lexists(location):
            raise ForeignModelError(
                f"{path} has weights in {name!r}, which does not exist; copy it beside the file"
            )
        if location.resolve() != location or not stat.S_ISREG(location.lstat().st_mode):
            raise ForeignModelError(
                f"{path} has weights in {name!r}, which is a link or not a plain file; copy the "
                "file itself there"
            )
        files.add(location)
    if (total := sum(file.stat().st_size for file in (path, *files))) > MAX_MODEL_BYTES:
        raise ForeignModelError(
            f"{path} and its weights have {total / 1e9:.1f} GB, and a version holds at most 2 GB"
        )
    try:
        onnx.load_external_data_for_model(proto, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ForeignModelError(f"{path}: its weights cannot be read: {error}") from None
    return tuple(sorted(files))


def _inline_functions(path: Path, proto: onnx.ModelProto) -> onnx.ModelProto:
    """Replace local functions (torch and Keras write them) by their nodes."""
    if not proto.functions:
        return proto
    try:
        return inliner.inline_local_functions(proto, convert_version=True)
    except (*CONVERSION_ERRORS, RuntimeError) as error:
        raise ForeignModelError(
            f"{path}: its local functions cannot be inlined: {str(error).splitlines()[0]}; export "
            "it without functions"
        ) from None


def _check_names(path: Path, graph: onnx.GraphProto) -> None:
    """Reject names that are not UTF-8, which protobuf returns as bytes."""
    names = [
        text
        for node in graph.node
        for text in (node.domain, node.op_type, *node.input, *node.output)
    ]
    names += [entry.name for entry in (*graph.input, *graph.output, *graph.initializer)]
    if broken := [name for name in names if not isinstance(name, str)]:
        raise ForeignModelError(
            f"{path} is not a valid ONNX model: the name {broken[0]!a} is not UTF-8; export it "
            "again"
        )


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
        version = min(versions.get(domain, 1), _NEWEST_OPSET)
        if not defs.has(node.op_type, max_inclusive_version=version, domain=domain):
            unknown.add(f"{domain}::{node.op_type}" if domain else node.op_type)
        elif len(node.input) < defs.get_schema(node.op_type, version, domain).min_input:
            raise ForeignModelError(
                f"{path} is not a valid ONNX model: {node.op_type} has {len(node.input)} inputs, "
                "too few; export it again"
            )
    if unknown:
        raise ForeignModelError(
            f"{path} uses operators that opset {versions.get('', 1)} does not have: "
            f"{', '.join(sorted(unknown))}; export it without custom operators"
        )


def _check_batch_norms(path: Path, graph: onnx.GraphProto) -> None:
    """Reject one mean per pixel (`spatial=0`), which ONNX Runtime and opset 9 do not support."""
    walker = GraphWalker(graph)
    for node in graph.node:
        if node.op_type != "BatchNormalization" or attribute(node, "spatial", 1) == 1:
            continue
        constants = [walker.constant(name) for name in node.input[1:]]
        if any(constant is None or constant.ndim != 1 for constant in constants):
            raise ForeignModelError(
                f"{path} has a BatchNormalization with spatial=0 and one mean per pixel, which "
                "newer opsets do not have; export it with one mean per channel (spatial=1)"
            )


def _tensor_info(path: Path, kind: str, entry: onnx.ValueInfoProto) -> TensorInfo:
    if entry.type.WhichOneof("value") != "tensor_type":
        found = entry.type.WhichOneof("value") or "value without a type"
        raise ForeignModelError(
            f"{path}: the {kind} {entry.name} is a {found}, expected a tensor; export the network "
            "without the step that turns scores into lists or dictionaries"
        )
    tensor = entry.type.tensor_type
    if tensor.elem_type not in TensorProto.DataType.values():
        raise ForeignModelError(
            f"{path}: the {kind} {entry.name} has element type {tensor.elem_type}, which ONNX "
            "does not define; export it again"
        )
    shape = (
        tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
        if tensor.HasField("shape")
        else None
    )
    return TensorInfo(entry.name, tensor.elem_type, shape)
