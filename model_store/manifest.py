"""The manifest: what a sealed version says about itself, as frozen pydantic blocks.

All blocks are declared from the first schema on, optional where a later capability fills them, so that no capability
breaks the format. The version's number is its directory's name and not a field: a version can be copied, signed or
published again without being changed. The sha256 of the manifest's bytes is the version's identity.
"""

import hashlib
import re
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from model_store.errors import InvalidNameError, ManifestError
from model_store.validation import describe_validation_error

SCHEMA_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
MODEL_INPUT: Final = "images"
NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
VERSION_PATTERN: Final = r"[1-9][0-9]{0,17}"

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


def check_name(name: str, kind: str = "model") -> str:
    """Return `name`, or raise InvalidNameError: letters, digits, dot, underscore and hyphen, at most 128, no first dot."""
    if not is_name(name):
        raise InvalidNameError(
            f"{name!r} is no {kind} name: use 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit"
        )
    return name


def is_name(text: str) -> bool:
    """Whether `text` is a canonical name."""
    return re.fullmatch(NAME_PATTERN, text, re.ASCII) is not None


def parse_version(text: str) -> int:
    """Return the version that `text` names, or raise InvalidNameError: a canonical positive integer (7, never 07 or +7)."""
    if not is_version_name(text):
        raise InvalidNameError(
            f"{text!r} is no version name: use a canonical positive integer (7, not 07 or +7)"
        )
    return int(text)


def is_version_name(text: str) -> bool:
    """Whether `text` is a canonical version name."""
    return re.fullmatch(VERSION_PATTERN, text, re.ASCII) is not None


def _check_file_path(path: str) -> str:
    parts = PurePosixPath(path).parts
    canonical = "/".join(parts)
    if (
        path != canonical
        or path.startswith("/")
        or "\\" in path
        or "\0" in path
        or ":" in path
        or ".." in parts
    ):
        raise ValueError(f"{path!r} leaves the version's directory or is not a plain relative path")
    if path == MANIFEST_NAME:
        raise ValueError("the manifest does not list itself")
    return path


FilePath = Annotated[
    str, StringConstraints(min_length=1, max_length=255), AfterValidator(_check_file_path)
]
Name = Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Channel = Annotated[int, Field(ge=0, le=255)]
Coverage = Annotated[str, StringConstraints(pattern=r"^0\.[0-9]{0,5}[1-9]$")]


class Block(BaseModel):
    """A part of the manifest: immutable, strict, and without room for fields that this schema does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileEntry(Block):
    """One sealed file: POSIX path relative to the version, its size and the sha256 of its bytes."""

    path: FilePath
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class VersionReference(Block):
    """Another version, by name and by identity."""

    model: Name
    version: Annotated[int, Field(ge=1)] | None = None
    digest: Sha256


class Input(Block):
    """The model's one input. The same for every model: `images`, uint8, `[batch, height, width, 3]`, RGB."""

    name: Literal["images"] = MODEL_INPUT
    dtype: Literal["uint8"] = "uint8"
    height: Annotated[int, Field(ge=1, le=16384)]
    width: Annotated[int, Field(ge=1, le=16384)]
    channels: Literal["RGB"] = "RGB"


class Outputs(Block):
    """The model's outputs: scores `[batch, classes]`, and the last feature map `[batch, channels, h, w]` where it has one."""

    logits: Annotated[str, Field(min_length=1)] = "logits"
    kind: Literal["logits", "probabilities"] = "logits"
    features: Annotated[str, Field(min_length=1)] | None = None


class Preprocessing(Block):
    """Bytes to pixels, the only arithmetic outside the graph: see `model_store.preprocessing.prepare`.

    `shorter_side` resizes the shorter side to `resize` pixels and keeps the aspect; `exact` resizes to the crop's size
    and ignores it. The crop is taken from the centre. `background` lies under transparent pixels.
    """

    resize_mode: Literal["shorter_side", "exact"] = "shorter_side"
    resize: Annotated[int, Field(ge=1, le=16384)]
    crop_height: Annotated[int, Field(ge=1, le=16384)]
    crop_width: Annotated[int, Field(ge=1, le=16384)]
    interpolation: Interpolation = "bilinear"
    background: tuple[Channel, Channel, Channel] = (255, 255, 255)

    @model_validator(mode="after")
    def _crop_fits_inside_the_resized_image(self) -> Self:
        if self.resize_mode == "shorter_side" and self.resize < max(
            self.crop_height, self.crop_width
        ):
            raise ValueError(
                f"a crop of {self.crop_height}x{self.crop_width} does not fit in an image resized to {self.resize}"
            )
        return self


class Check(Block):
    """One gate's finding. A waiver keeps its reason for ever."""

    check: Annotated[str, Field(min_length=1)]
    passed: bool
    value: FiniteFloat
    threshold: FiniteFloat
    comparison: Literal["at_least", "at_most"]
    detail: str = ""
    waived: Annotated[str, Field(min_length=1)] | None = None


class Variant(Block):
    """One file that computes the model. `tolerance` bounds |logit - expected logit| on the golden pixels."""

    precision: Precision
    file: FilePath
    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    golden_logits: tuple[tuple[FiniteFloat, ...], ...] = ()
    """What this file gave for each golden image when it was gated; empty where training's own logits are expected of it."""
    gate: tuple[Check, ...] = ()


class Classifier(Block):
    """The last layer's weights, for class-activation maps: an `.npz` with `weight` [classes, channels] and `bias` [classes]."""

    file: FilePath


class Checkpoint(Block):
    """The trained weights before export (safetensors, torchvision's names), to retrain from."""

    file: FilePath


class Calibration(Block):
    """What turns logits into probabilities, abstention and sets of labels; fitted on images that were not trained on."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    energy_threshold: FiniteFloat | None = None
    """An image with a higher energy (`model_store.uncertainty.energy`) is unlike the training images."""
    conformal_thresholds: dict[Coverage, Fraction] = {}
    """By coverage: the least calibrated probability of a label in the set that holds the right one so often."""
    fitted_on: str = ""
    ece_before: Fraction | None = None
    ece_after: Fraction | None = None
    """The expected calibration error on the test split, without and with the temperature."""
    abstained: Fraction | None = None
    """The share of the test images that are refused."""
    coverages: dict[Coverage, Fraction] = {}
    """By coverage: how many of the test images' sets hold the right label."""


class DataSet(Block):
    """The data that a model was trained on. `digest` covers every image's decoded pixels and label in order."""

    name: Annotated[str, Field(min_length=1)]
    digest: Sha256
    source: str = ""
    licence: str = ""
    split: dict[str, Annotated[int, Field(ge=0)]] = {}
    split_seed: int | None = None


class Training(Block):
    """Where a version comes from. `command` repeats the training when typed in a checkout of `git_commit`."""

    run_id: Annotated[str, Field(min_length=1)]
    command: str
    git_commit: str | None
    architecture: Annotated[str, Field(min_length=1)]
    recipe: dict[str, JsonValue]
    data: DataSet
    seed: int
    epochs: Annotated[int, Field(ge=0)]
    best_epoch: Annotated[int, Field(ge=0)]
    packages: dict[str, str] = {}


class Imported(Block):
    """Where an imported version comes from: the file (or the known weights) and its sha256. `report` says what was guessed.

    Where weights lie beside the file, it is the sha256 of a list: the sha256 of the file, then of each that holds some (in the
    order of their paths), in hex, a line each.
    """

    kind: Literal["onnx", "weights", "torchvision"]
    name: Annotated[str, Field(min_length=1)]
    sha256: Sha256
    architecture: str | None = None
    report: FilePath


class Metrics(Block):
    """What was measured on the test split, through `prepare` on encoded images; `ece` and `loss` before calibration."""

    top1: Fraction
    top5: Fraction | None = None
    test_images: Annotated[int, Field(ge=1)]
    top1_interval: tuple[Fraction, Fraction] | None = None
    ece: Fraction | None = None
    loss: FiniteFloat | None = None


class DecodeTolerance(Block):
    """How far decoded pixels may be from the stored ones, in grey levels: the largest and the mean difference."""

    max_abs: Annotated[int, Field(ge=0, le=255)]
    mean_abs: Annotated[float, Field(ge=0, le=255, allow_inf_nan=False)]


class Golden(Block):
    """One image of the golden proof: the encoded file, its pixels (`.npy`, uint8 `[height, width, 3]`) and training's logits."""

    image: FilePath
    pixels: FilePath
    decode_tolerance: DecodeTolerance
    logits: tuple[FiniteFloat, ...]
    purpose: str = ""


class Signature(Block):
    """Someone vouches for the version: base64 of a signature over the manifest's bytes with this block null."""

    scheme: Annotated[str, Field(min_length=1)]
    key_id: Annotated[str, Field(min_length=1)]
    value: Annotated[str, Field(min_length=1)]


class Manifest(Block):
    """Everything that the service needs to serve a version right, and a person to trust it."""

    schema_version: Literal[1] = SCHEMA_VERSION
    model: Name
    created_at: AwareDatetime
    derived_from: VersionReference | None = None
    files: tuple[FileEntry, ...]
    input: Input
    outputs: Outputs
    preprocessing: Preprocessing
    class_names: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=2)]
    max_batch_size: Annotated[int, Field(ge=1, le=4096)]
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    classifier: Classifier | None = None
    checkpoint: Checkpoint | None = None
    calibration: Calibration | None = None
    training: Training | None = None
    imported: Imported | None = None
    metrics: Metrics | None = None
    gate: tuple[Check, ...] = ()
    golden: tuple[Golden, ...] = ()
    proof: Literal["proven", "unproven"] = "proven"
    signature: Signature | None = None

    @model_validator(mode="after")
    def _blocks_agree(self) -> Self:
        paths = [entry.path for entry in self.files]
        if len(set(paths)) != len(paths):
            raise ValueError("files lists a path twice")
        missing = sorted(self._named_paths() - set(paths))
        if missing:
            raise ValueError(f"files does not list {', '.join(missing)}")
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError("class_names holds a name twice")
        if (self.preprocessing.crop_height, self.preprocessing.crop_width) != (
            self.input.height,
            self.input.width,
        ):
            raise ValueError("preprocessing crops to another size than the model's input")
        if any(len(golden.logits) != len(self.class_names) for golden in self.golden):
            raise ValueError("golden logits and class_names differ in number")
        if any(
            variant.golden_logits
            and [*map(len, variant.golden_logits)] != [len(self.class_names)] * len(self.golden)
            for variant in self.variants
        ):
            raise ValueError(
                "a variant's golden logits do not fit the golden images and class_names"
            )
        if (
            self.outputs.kind != "logits"
            and self.calibration
            and self.calibration.energy_threshold is not None
        ):
            raise ValueError(
                "an energy threshold needs logits: probabilities all have the same energy"
            )
        if self.proof == "proven" and not self.golden:
            raise ValueError("a proven version needs golden images")
        if len({variant.precision for variant in self.variants}) != len(self.variants):
            raise ValueError("variants holds a precision twice")
        return self

    def _named_paths(self) -> set[str]:
        named = {variant.file for variant in self.variants}
        named |= {path for golden in self.golden for path in (golden.image, golden.pixels)}
        named |= {block.file for block in (self.classifier, self.checkpoint) if block is not None}
        named |= {self.imported.report} if self.imported else set()
        return named

    def to_bytes(self) -> bytes:
        """The manifest as it lies on disk: UTF-8 JSON, two spaces, one newline at the end."""
        return self.model_dump_json(indent=2).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse and validate; raises ManifestError that names the field, what was expected and what came."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise ManifestError(
                f"the manifest is not valid: {describe_validation_error(error)}"
            ) from None

    @property
    def all_checks_passed(self) -> bool:
        """True when no gate failed without a waiver."""
        checks = [*self.gate, *(check for variant in self.variants for check in variant.gate)]
        return all(check.passed or check.waived for check in checks)


def digest_of(manifest_bytes: bytes) -> str:
    """The identity of a version: sha256 of its manifest's bytes, in hex."""
    return hashlib.sha256(manifest_bytes).hexdigest()


def now() -> datetime:
    """The current time in UTC, to the second: finer would only make manifests longer."""
    return datetime.now(UTC).replace(microsecond=0)
