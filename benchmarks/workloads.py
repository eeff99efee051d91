"""Workloads: a model and the encoded images that every side classifies."""

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from machine import ROOT
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from model_store.manifest import MANIFEST_NAME, Manifest
from model_store.preprocessing import prepare
from model_store.session import Session, probabilities
from model_store.store import BUILTIN_ROOT

BUILD = ROOT / "build/bench"
IMAGES = 16
BOUNDARY = "resident-benchmark-boundary"


@dataclass(frozen=True)
class Workload:
    """A stored version in one precision, and images of one size and format."""

    key: str
    title: str
    model: str
    store: Path
    version: Path
    size: tuple[int, int]
    image_format: str
    precision: str = "fp32"
    digits: bool = False

    @property
    def slow(self) -> bool:
        """Whether only few images per second can be answered."""
        return self.size[0] > 100

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.from_bytes((self.version / MANIFEST_NAME).read_bytes())

    @property
    def file(self) -> Path:
        """The ONNX file in this precision."""
        return self.version / next(
            each.file for each in self.manifest.variants if each.precision == self.precision
        )

    @cached_property
    def images(self) -> tuple[bytes, ...]:
        """IMAGES encoded crops of a photograph; with `digits` a digit is drawn on each."""
        photo = Image.open(ROOT / "docs/images/cat.jpg").convert("RGB")
        chance, images = np.random.default_rng(0), []
        for number in range(IMAGES):
            side = int(chance.integers(photo.height // 2, photo.height))
            width = side * self.size[0] // self.size[1]
            left, top = (
                int(chance.integers(0, photo.width - width + 1)),
                int(chance.integers(0, photo.height - side + 1)),
            )
            cut = photo.crop((left, top, left + width, top + side)).resize(
                self.size, Image.Resampling.BICUBIC
            )
            if self.digits:  # otherwise all images would be of the same class
                cut = ImageEnhance.Brightness(cut).enhance(0.3)
                ImageDraw.Draw(cut).text(
                    (16, 16),
                    str(number % 10),
                    "white",
                    ImageFont.load_default(26),
                    "mm",
                    stroke_width=1,
                )
            encoded = io.BytesIO()
            cut.save(
                encoded,
                self.image_format,
                **({"quality": 92} if self.image_format == "JPEG" else {}),
            )
            images.append(encoded.getvalue())
        return tuple(images)

    @cached_property
    def expected(self) -> tuple[tuple[int, float], ...]:
        """The top class of each image and its uncalibrated probability, from the file itself."""
        session = Session(self.file, self.manifest.input, self.manifest.outputs)
        pixels = np.stack([prepare(image, self.manifest.preprocessing) for image in self.images])
        rows = probabilities(session.run(pixels), self.manifest.outputs)
        return tuple((int(row.argmax()), float(row.max())) for row in rows)

    @property
    def media_type(self) -> str:
        return f"image/{self.image_format.lower()}"

    def bodies(self, field: str | None) -> "Bodies":
        """The images as request bodies: raw, or as the file `field` of a multipart form."""
        folder = BUILD / "bodies" / f"{self.key}-{field or 'plain'}"
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(self.images, 1):
            (folder / str(number)).write_bytes(image if field is None else self._form(field, image))
        content_type = (
            self.media_type if field is None else f"multipart/form-data; boundary={BOUNDARY}"
        )
        return Bodies(folder, content_type, slow=self.slow)

    def _form(self, field: str, image: bytes) -> bytes:
        suffix = self.image_format.lower()
        head = (
            f"--{BOUNDARY}\r\n"
            f'Content-Disposition: form-data; name="{field}"; filename="image.{suffix}"\r\n'
            f"Content-Type: {self.media_type}\r\n\r\n"
        )
        return head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()


@dataclass(frozen=True)
class Bodies:
    """Request bodies as the files 1 to IMAGES of a folder."""

    folder: Path
    content_type: str
    slow: bool = False
    json_length: int = 0
    """For binary tensors of the Open Inference Protocol: bytes of the JSON before them."""

    def read(self) -> list[bytes]:
        return [(self.folder / str(number)).read_bytes() for number in range(1, IMAGES + 1)]


def resnet20() -> Workload:
    """The built-in digits model."""
    (BUILD / "empty").mkdir(parents=True, exist_ok=True)
    version = BUILTIN_ROOT / "digits-resnet20/1"
    title = "ResNet-20, 32x32 PNG"
    return Workload(
        "resnet20", title, "digits-resnet20", BUILD / "empty", version, (32, 32), "PNG", digits=True
    )


def resnet50(precision: str = "fp32") -> Workload:
    """ResNet-50 with random weights, published by benchmarks/resnet50.py."""
    key = "resnet50" if precision == "fp32" else f"resnet50-{precision}"
    version = BUILD / key / "resnet50/1"
    if not version.exists():
        raise SystemExit(
            f"{version} does not exist: run benchmarks/resnet50.py in the training environment, "
            "as `make bench` does"
        )
    return Workload(
        key,
        "ResNet-50, 500x375 JPEG",
        "resnet50",
        BUILD / key,
        version,
        (500, 375),
        "JPEG",
        precision,
    )


def by_key(key: str) -> Workload:
    """One of `resnet20`, `resnet50` and `resnet50-int8`."""
    return (
        resnet20() if key == "resnet20" else resnet50("int8" if key == "resnet50-int8" else "fp32")
    )
