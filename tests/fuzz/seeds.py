"""Valid inputs of every target, from which fuzzing starts."""

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Final

import numpy as np
from PIL import Image
from targets import BOUNDARY

from model_store.image_header import FORMATS
from model_store.store import BUILTIN_ROOT
from service.key_file import ApiKey, KeyFile
from service.protocols.open_inference_grpc.open_inference_pb2 import ModelInferRequest

_VERSION: Final = BUILTIN_ROOT / "digits-resnet20/1"
_GOLDEN: Final = next((_VERSION / "golden").iterdir()).read_bytes()


def seeds_of(target: str) -> list[bytes]:
    return list(_SEEDS[target]())


def _images() -> Iterator[bytes]:
    picture = Image.fromarray((np.arange(16 * 24 * 3).reshape(16, 24, 3) % 251).astype(np.uint8))
    for kind in sorted(FORMATS):
        if kind not in {"HEIF", "MPO"}:
            yield _encode(picture, kind)
    yield _encode(picture, "JPEG", progressive=True)
    yield _encode(picture.convert("CMYK"), "JPEG")
    yield _encode(picture.quantize(16), "PNG", transparency=1)
    yield _encode(picture, "TIFF", compression="tiff_lzw")
    yield _encode(picture, "GIF", save_all=True, append_images=[picture.rotate(90)])
    yield _encode(picture.convert("RGBA"), "WEBP", lossless=True)


def _encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _json_body() -> bytes:
    text = base64.b64encode(_GOLDEN).decode()
    return json.dumps({"images": [{"b64": text}, {"b64": ""}]}).encode()


def _form() -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="a.png"'
    lines = [head.encode(), b"Content-Type: image/png", b"", _GOLDEN, f"--{BOUNDARY}--".encode()]
    return b"\r\n".join([*lines, b""])


def _archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/", b"")
        archive.writestr("folder/a.png", _GOLDEN)
        archive.writestr("b.png", _GOLDEN, zipfile.ZIP_STORED)
    return file.getvalue()


def _open_inference() -> Iterator[bytes]:
    shape = [1, 8, 8, 3]
    pixels = bytes(8 * 8 * 3)
    tensor = {"name": "images", "datatype": "UINT8", "shape": shape}
    whole = {"inputs": [{**tensor, "data": list(pixels)}], "outputs": [{"name": "labels"}]}
    yield (65_535).to_bytes(2, "little") + json.dumps(whole).encode()
    sized = {**tensor, "parameters": {"binary_data_size": len(pixels)}}
    text = json.dumps({"inputs": [sized], "parameters": {"binary_data_output": True}}).encode()
    yield len(text).to_bytes(2, "little") + text + pixels
    element = len(_GOLDEN).to_bytes(4, "little") + _GOLDEN
    encoded = {"name": "images", "datatype": "BYTES", "shape": [1]}
    encoded["parameters"] = {"binary_data_size": len(element)}
    text = json.dumps({"inputs": [encoded]}).encode()
    yield len(text).to_bytes(2, "little") + text + element
    yield (0).to_bytes(2, "little") + _GOLDEN


def _grpc_messages() -> Iterator[bytes]:
    message = ModelInferRequest(model_name="digits-resnet20", id="1")
    message.inputs.add(name="images", datatype="UINT8", shape=[1, 8, 8, 3])
    message.raw_input_contents.append(bytes(8 * 8 * 3))
    message.outputs.add(name="labels").parameters["classification"].int64_param = 3
    yield message.SerializeToString()
    message = ModelInferRequest()
    message.inputs.add(name="images", datatype="BYTES", shape=[1])
    message.inputs[0].contents.bytes_contents.append(_GOLDEN)
    yield message.SerializeToString()


def _alias_events() -> bytes:
    event = {"action": "promote", "version": 1, "when": "2026-01-01T00:00:00Z", "by": "key app"}
    events = (event, {**event, "version": 2}, {**event, "action": "rollback"})
    return b"\0".join(json.dumps(each).encode() for each in events)


def _key_file() -> bytes:
    made = "2026-01-01T00:00:00Z"
    key = {"name": "app", "scopes": ["predict"], "sha256": "0" * 64, "created_at": made}
    old = {"sha256": "1" * 64, "expires_at": made}
    more = {"expires_at": made, "requests_per_second": 5, "previous": old}
    return KeyFile(keys=(ApiKey.model_validate(key | more),)).model_dump_json().encode()


_SEEDS: Final = {
    "image": _images,
    "body": lambda: [b"\0" + _json_body(), b"\1" + _form(), b"\2" + _GOLDEN, b"\3a=b", b"\4PK"],
    "form": lambda: [_form()],
    "archive": lambda: [_archive()],
    "open_inference": _open_inference,
    "grpc_message": _grpc_messages,
    "manifest": lambda: [(_VERSION / "manifest.json").read_bytes()],
    "alias_events": lambda: [_alias_events()],
    "key_file": lambda: [_key_file()],
}
