"""The manifest of a sealed version: how to run it, how to prove it, and where it comes from.

Schema 1 has every block, and blocks for later features are optional, so a new feature does not
change the format. The version number is the name of the directory and not a field, so a version can
be copied unchanged. Its identity is the sha256 of the manifest's bytes.
"""

import hashlib
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, Self

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError, model_validator

from model_store.errors import ManifestError
from model_store.geometry import resize_target
from model_store.names import Name
from model_store.provenance import Imported, Metrics, Signature, Training, VersionReference
from model_store.validation import (
    FilePath,
    FiniteFloat,
    Fraction,
    FrozenModel,
    NonEmptyText,
    Sha256,
    describe_validation_error,
)

SCHEMA_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
SIGNATURE_NAME: Final = "manifest.sig"
"""An Ed25519 signature of the manifest; see `model_store.signature`."""
MODEL_INPUT: Final = "images"
MAX_TOLERANCE: Final = 1e3
"""A golden proof with a larger tolerance would prove nothing."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
ResizeMode = Literal["shorter_side", "exact", "letterbox"]
Channel = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Channel, Channel, Channel]
Side = Annotated[int, Field(ge=1, le=16384)]
Coverage = Annotated[str, StringConstraints(pattern=r"^0\.[0-9]{0,5}[1-9]$")]
"""A coverage between 0 and 1 as a JSON key, in its shortest spelling: `0.9`."""


class FileEntry(FrozenModel):
    """One sealed file."""

    path: FilePath = Field(description="POSIX path relative to the version's directory.")
    size: int = Field(ge=0, description="Size in bytes.")
    sha256: Sha256 = Field(description="sha256 of the file's bytes, in hex.")


class Input(FrozenModel):
    """The only input, uint8 `[batch, height, width, 3]`, RGB. It is the same for every model."""

    name: Literal["images"] = Field(
        default=MODEL_INPUT, description="Name of the input in the graph."
    )
    dtype: Literal["uint8"] = Field(default="uint8", description="Type of one value.")
    height: int = Field(ge=1, le=16384, description="Height in pixels.")
    width: int = Field(ge=1, le=16384, description="Width in pixels.")
    channels: Literal["RGB"] = Field(default="RGB", description="Order of the colour channels.")


class Outputs(FrozenModel):
    """Names and kind of the model's outputs."""

    logits: NonEmptyText = Field(
        default="logits",
        description="Name of the output with the scores, float32 `[batch, classes]`.",
    )
    kind: Literal["logits", "probabilities"] = Field(
        default="logits",
        description="Whether the scores are logits, or probabilities that sum to 1.",
    )
    features: NonEmptyText | None = Field(
        default=None,
        description="Name of the output with the last feature map, float32 "
        "`[batch, channels, height, width]`; null if there is none.",
    )
    embedding: NonEmptyText | None = Field(
        default=None,
        exclude_if=lambda name: name is None,  # older versions of the service reject it
        description="Name of the output with the pooled features before the last layer, float32 "
        "`[batch, dims]`; absent if there is none.",
    )


class Letterbox(FrozenModel):
    """The padding that `resize_mode` `letterbox` adds around an image."""

    padding: Colour = Field(description="RGB colour around the image, 0 to 255.")
    position: Literal["center"] = Field(
        default="center",
        description="Where the image is. An odd pixel of padding goes to the right or the bottom.",
    )


class Preprocessing(FrozenModel):
    """How encoded bytes become the model's input. `model_store.preprocessing.prepare` does it.

    An upright image is resized towards the target `resize`, and then its centre is cropped.
    """

    resize_mode: ResizeMode = Field(
        default="shorter_side",
        description="`shorter_side` keeps the aspect ratio and covers the target. `letterbox` "
        "keeps the aspect ratio, fits into the target, and pads to the crop's size. `exact` "
        "squeezes to the target.",
    )
    resize: Side | tuple[Side, Side] = Field(
        description="The target: `[height, width]` in pixels, or one number if they are equal. "
        "With `exact`, one number has no effect, and the crop's size is the target.",
    )
    crop_height: Side = Field(description="Height of the centre crop, in pixels.")
    crop_width: Side = Field(description="Width of the centre crop, in pixels.")
    interpolation: Interpolation = Field(
        default="bilinear", description="Filter of the resize, with antialiasing."
    )
    background: Colour = Field(
        default=(255, 255, 255), description="RGB colour behind transparent pixels, 0 to 255."
    )
    letterbox: Letterbox | None = Field(
        default=None,
        exclude_if=lambda block: block is None,  # older versions of the service reject it
        description="Padding of `letterbox`; absent in the other modes.",
    )

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        height, width = resize_target(self)
        if height < self.crop_height or width < self.crop_width:
            raise ValueError(
                f"a crop of {self.crop_height}x{self.crop_width} does not fit into {height}x{width}"
                f", which `resize` states"
            )
        if (self.letterbox is None) == (self.resize_mode == "letterbox"):
            raise ValueError("`letterbox` must be stated with resize_mode letterbox, and only then")
        return self


class Check(FrozenModel):
    """The result of one gate."""

    check: NonEmptyText = Field(description="Name of the check.")
    passed: bool = Field(description="Whether `value` meets `threshold`.")
    value: FiniteFloat = Field(description="The measured value.")
    threshold: FiniteFloat = Field(description="The limit for `value`.")
    comparison: Literal["at_least", "at_most"] = Field(
        description="Whether `threshold` is the smallest or the largest value that passes."
    )
    detail: str = Field(default="", description="What was compared, for people.")
    waived: NonEmptyText | None = Field(
        default=None, description="Why the version was published although this check failed."
    )


class Variant(FrozenModel):
    """One ONNX file that computes the model in one precision."""

    precision: Precision = Field(description="Precision of the weights and most operators.")
    file: FilePath = Field(description="The ONNX file.")
    tolerance: float = Field(
        gt=0,
        le=MAX_TOLERANCE,
        allow_inf_nan=False,
        description="Largest allowed |logit - expected logit| on the golden pixels.",
    )
    golden_logits: tuple[tuple[FiniteFloat, ...], ...] = Field(
        default=(),
        description="Expected logits of this variant, `[golden images, classes]`; empty if the "
        "logits of `golden` are expected.",
    )
    gate: tuple[Check, ...] = Field(
        default=(), description="Results of the gates for this variant."
    )


class Classifier(FrozenModel):
    """The last layer's weights, for class activation maps."""

    file: FilePath = Field(
        description="An `.npz` with `weight` `[classes, channels]` and `bias` `[classes]`."
    )


class SealedDensity(FrozenModel):
    """How the model abstains from images whose embedding is unlike those of the training images."""

    file: FilePath = Field(
        description="An `.npz` with the arrays and the threshold of `model_store.density.Density`."
    )
    fitted_on: str = Field(default="", description="The images that it was fitted on.")
    abstained: Fraction | None = Field(
        default=None, description="Share of the test images from which the model abstains with it."
    )


class Checkpoint(FrozenModel):
    """The trained weights before export, to continue training from."""

    file: FilePath = Field(description="A safetensors file with torchvision's names.")


class Calibration(FrozenModel):
    """How logits become probabilities, abstention and prediction sets."""

    temperature: float = Field(
        default=1.0,
        ge=1e-6,
        le=1e6,
        allow_inf_nan=False,
        description="Divides the logits before the softmax (Guo et al. 2017).",
    )
    energy_threshold: FiniteFloat | None = Field(
        default=None,
        description="The model abstains from images whose energy is higher "
        "(`model_store.uncertainty.energy`).",
    )
    conformal_thresholds: dict[Coverage, Fraction] = Field(
        default={},
        description="By coverage: the smallest calibrated probability of a label in the prediction "
        "set (Sadinle, Lei, Wasserman 2019).",
    )
    fitted_on: str = Field(default="", description="The images that the calibration was fitted on.")
    ece_before: Fraction | None = Field(
        default=None,
        description="Expected calibration error on the test split at a temperature of 1.",
    )
    ece_after: Fraction | None = Field(
        default=None, description="Expected calibration error on the test split at `temperature`."
    )
    abstained: Fraction | None = Field(
        default=None, description="Share of the test images from which the model abstains."
    )
    coverages: dict[Coverage, Fraction] = Field(
        default={},
        description="By coverage: share of the test images whose prediction set holds the right "
        "label.",
    )


class DecodeTolerance(FrozenModel):
    """How far decoded pixels may be from the stored ones, in grey levels of 0 to 255."""

    max_abs: int = Field(ge=0, le=255, description="Largest absolute difference.")
    mean_abs: float = Field(
        ge=0, le=255, allow_inf_nan=False, description="Mean absolute difference."
    )


class Golden(FrozenModel):
    """One image of the golden proof."""

    image: FilePath = Field(description="The encoded image.")
    pixels: FilePath = Field(
        description="The pixels that it decodes to: `.npy`, uint8 `[height, width, 3]`, RGB."
    )
    decode_tolerance: DecodeTolerance = Field(
        description="How far decoded pixels may be from `pixels`."
    )
    logits: tuple[FiniteFloat, ...] = Field(
        description="The logits that training computed for `pixels`, `[classes]`."
    )
    purpose: str = Field(default="", description="What the image tests, for people.")


class Manifest(FrozenModel):
    """Everything that the service needs to run a version, and people to trust it."""

    schema_version: Literal[1] = Field(
        default=SCHEMA_VERSION, description="Version of this format."
    )
    model: Name = Field(description="Name of the model that the version belongs to.")
    created_at: AwareDatetime = Field(description="When the version was published, in UTC.")
    derived_from: VersionReference | None = Field(
        default=None, description="The version that this one was retrained or quantized from."
    )
    files: tuple[FileEntry, ...] = Field(
        description="Every file of the version but the manifest itself."
    )
    input: Input = Field(description="The model's input.")
    outputs: Outputs = Field(description="The model's outputs.")
    preprocessing: Preprocessing = Field(description="How encoded bytes become the input.")
    class_names: tuple[NonEmptyText, ...] = Field(
        min_length=2, description="Name of each class, in the order of the scores."
    )
    max_batch_size: int = Field(
        ge=1, le=4096, description="Largest batch that the model was exported and checked for."
    )
    variants: tuple[Variant, ...] = Field(
        min_length=1, description="ONNX files of the model, one per precision."
    )
    classifier: Classifier | None = Field(
        default=None,
        description="The last layer's weights; null if the version has no class activation maps.",
    )
    density: SealedDensity | None = Field(
        default=None,
        exclude_if=lambda block: block is None,  # older versions of the service reject it
        description="Abstention by embedding and energy; absent if it is by energy alone.",
    )
    checkpoint: Checkpoint | None = Field(
        default=None, description="The trained weights; null if the version does not include them."
    )
    calibration: Calibration | None = Field(
        default=None,
        description="How to calibrate the scores; null if the model was not calibrated.",
    )
    training: Training | None = Field(
        default=None, description="How the version was trained; null for an imported one."
    )
    imported: Imported | None = Field(
        default=None, description="Where the network comes from; null for a version trained here."
    )
    metrics: Metrics | None = Field(
        default=None, description="Measurements on the test split; null if there was no test split."
    )
    gate: tuple[Check, ...] = Field(
        default=(), description="Results of the gates that hold for every variant."
    )
    golden: tuple[Golden, ...] = Field(default=(), description="The images of the golden proof.")
    proof: Literal["proven", "unproven"] = Field(
        default="proven",
        description="`unproven` if no labelled images have shown that the network was imported "
        "correctly. Such a version is not promoted automatically.",
    )
    signature: Signature | None = Field(default=None, description="Reserved for a signature.")

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        self._check_files()
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError("class_names lists a name twice")
        crop = (self.preprocessing.crop_height, self.preprocessing.crop_width)
        if crop != (self.input.height, self.input.width):
            raise ValueError("preprocessing crops to a size that is not the input's")
        if any(len(golden.logits) != len(self.class_names) for golden in self.golden):
            raise ValueError("golden logits and class_names differ in length")
        if any(
            variant.golden_logits
            and [*map(len, variant.golden_logits)] != [len(self.class_names)] * len(self.golden)
            for variant in self.variants
        ):
            raise ValueError("a variant's golden_logits must be [golden images, classes]")
        threshold = self.calibration.energy_threshold if self.calibration else None
        if self.outputs.kind != "logits" and threshold is not None:
            raise ValueError(
                "energy_threshold needs logits: all probabilities have the same energy"
            )
        if self.density and (self.outputs.kind != "logits" or not self.outputs.embedding):
            raise ValueError("density needs the outputs embedding and logits")
        if self.proof == "proven" and not self.golden:
            raise ValueError("a proven version needs golden images")
        if len({variant.precision for variant in self.variants}) != len(self.variants):
            raise ValueError("variants lists a precision twice")
        return self

    def _check_files(self) -> None:
        paths = [entry.path for entry in self.files]
        if len(set(paths)) != len(paths):
            raise ValueError("files lists a path twice")
        folders = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
        for both in sorted(folders.intersection(paths)):
            raise ValueError(f"files lists {both} as a file and as a folder")
        for reserved in {MANIFEST_NAME, SIGNATURE_NAME}.intersection(paths):
            raise ValueError(f"files must not list {reserved}")
        if missing := sorted(self.named_paths() - set(paths)):
            raise ValueError(f"files does not list {', '.join(missing)}")

    def named_paths(self) -> set[str]:
        """The files that other fields name. External weights of a graph are in `files` only."""
        named = {variant.file for variant in self.variants}
        named |= {path for golden in self.golden for path in (golden.image, golden.pixels)}
        blocks = (self.classifier, self.checkpoint, self.density)
        named |= {block.file for block in blocks if block is not None}
        named |= {self.imported.report} if self.imported else set()
        named |= {self.report_file} if self.report_file else set()
        return named

    @property
    def report_file(self) -> str | None:
        """The report of the run, else that of the evaluation; None if there is neither."""
        of_run = self.training.report if self.training else None
        return of_run or (self.metrics.report if self.metrics else None)

    def to_bytes(self) -> bytes:
        """The bytes of `manifest.json`: UTF-8 JSON, indented by two spaces, ending in a newline."""
        return self.model_dump_json(indent=2).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse and validate the bytes of `manifest.json`.

        Raises:
            ManifestError: The bytes are not a valid manifest. The message names the fields.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise ManifestError(
                f"the manifest is not valid: {describe_validation_error(error)}"
            ) from None


def manifest_digest(manifest_bytes: bytes) -> str:
    """The identity of a version: sha256 of the bytes of its manifest, in hex."""
    return hashlib.sha256(manifest_bytes).hexdigest()


def now() -> datetime:
    """The current time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
