"""The blocks of a manifest that say where a version comes from and what was measured."""

from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue

from model_store.names import Name
from model_store.validation import (
    FilePath,
    FiniteFloat,
    Fraction,
    FrozenModel,
    NonEmptyText,
    Sha256,
)


class VersionReference(FrozenModel):
    """Another version, by name and by identity."""

    model: Name = Field(description="Name of the model.")
    version: int | None = Field(
        default=None, ge=1, description="Its number in the store where it was published."
    )
    digest: Sha256 = Field(description="sha256 of its `manifest.json`, in hex.")


class DataSet(FrozenModel):
    """The data that a model was trained on."""

    name: NonEmptyText = Field(description="Name of the data set, or of the folder or CSV file.")
    digest: Sha256 = Field(
        description="sha256 over the decoded pixels and the label of every image, in order."
    )
    source: str = Field(default="", description="Where the data comes from.")
    licence: str = Field(default="", description="Licence of the data.")
    split: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default={}, description="Number of images by split: `train`, `validation`, `test`."
    )
    split_seed: int | None = Field(
        default=None, description="Seed of the split that the project draws."
    )


class Training(FrozenModel):
    """How a version was trained."""

    run_id: NonEmptyText = Field(description="Name of the run's directory.")
    command: str = Field(
        description="The command that repeats the training in a checkout of `git_commit`."
    )
    git_commit: str | None = Field(
        description="Output of `git describe --always --dirty`; null outside of a checkout."
    )
    architecture: NonEmptyText = Field(description="Name of the network, such as `resnet20`.")
    recipe: dict[str, JsonValue] = Field(description="Every value of the training recipe.")
    data: DataSet = Field(description="The data that the model was trained on.")
    seed: int = Field(description="Seed of initial weights, order of images and augmentation.")
    epochs: int = Field(ge=0, description="Number of epochs that were trained.")
    best_epoch: int = Field(ge=0, description="Epoch whose weights were exported, from 1.")
    packages: dict[str, str] = Field(
        default={}, description="Versions of the installed packages that training uses, by name."
    )
    report: FilePath | None = Field(
        default=None,
        exclude_if=lambda path: path is None,  # older versions of the service reject it
        description="The report of the run: a self-contained HTML page with curves, confusion "
        "matrix and worst mistakes, of at most 4 MiB. Absent if the version has none.",
    )


class Imported(FrozenModel):
    """Where the network of an imported version comes from."""

    kind: Literal["onnx", "weights", "torchvision"] = Field(
        description="An ONNX file, a file of PyTorch weights, or weights that torchvision offers."
    )
    name: NonEmptyText = Field(description="Name of the file, or of torchvision's weights.")
    sha256: Sha256 = Field(
        description="sha256 of the file, in hex. If external weights belong to it: sha256 of the "
        "digests of the file and of each file with weights, ordered by path, one per line."
    )
    architecture: str | None = Field(
        default=None, description="Name of the network, if the file is one of weights."
    )
    report: FilePath = Field(description="The file that says which properties were guessed.")


TOP_SCORE_PERCENTILES: Final = (5, 50, 95)
"""Percentiles of the top scores, for the test images and for served images."""


class TopScores(FrozenModel):
    """Distribution of the top scores of the test images, as the service returns them."""

    mean: Fraction = Field(description="Mean top score.")
    percentiles: dict[Literal["5", "50", "95"], Fraction] = Field(
        description="Top score by percentile."
    )


class Metrics(FrozenModel):
    """Measurements on the test split, from encoded images through `prepare`, before calibration."""

    top1: Fraction = Field(description="Share of images whose most probable label is correct.")
    top5: Fraction | None = Field(
        default=None,
        description="Share of images whose correct label is among the five most probable.",
    )
    test_images: int = Field(ge=1, description="Number of test images.")
    top1_interval: tuple[Fraction, Fraction] | None = Field(
        default=None, description="95 % confidence interval of `top1`."
    )
    ece: Fraction | None = Field(default=None, description="Expected calibration error.")
    loss: FiniteFloat | None = Field(default=None, description="Mean cross-entropy, in nats.")
    top_scores: TopScores | None = Field(
        default=None,
        exclude_if=lambda block: block is None,  # older versions of the service reject it
        description="Top scores after calibration, to compare with those of images that are "
        "served; absent in versions of older releases.",
    )
    report: FilePath | None = Field(
        default=None,
        exclude_if=lambda path: path is None,  # older versions of the service reject it
        description="The report of these measurements, for a version without the report of a run: "
        "a self-contained HTML page with confusion matrix, calibration and worst mistakes, of at "
        "most 4 MiB. Absent if the version has none.",
    )


class Signature(FrozenModel):
    """Reserved. The signature of a version is in `manifest.sig`; see `model_store.signature`."""

    scheme: NonEmptyText = Field(description="Name of the signature scheme.")
    key_id: NonEmptyText = Field(description="Which key signed.")
    value: NonEmptyText = Field(description="The signature in base64.")
