"""Evaluation: the selected weights on the test split, once per run."""

import io
import zipfile
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_store.manifest import Calibration, Outputs, now
from model_store.proportions import wilson_interval
from model_store.provenance import TOP_SCORE_PERCENTILES, Metrics, TopScores
from model_store.session import Logits, probabilities
from training.errors import DivergedError
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.run.data import RunData
from training.run.directory import Run, RunDirectory, damaged_file_error
from training.run.inference import predict_split
from training.run.weights import load_trained

EVALUATION_FILE: Final = "evaluation.json"
LOGITS_FILE: Final = "evaluation.npz"
_LOGITS: Final = Outputs()
_SMALLEST_PROBABILITY: Final = 1e-12
_REQUIRED_FIGURES: Final = frozenset(
    {"top1", "top1_interval", "top5", "loss", "test_images", "best_epoch"}
)


def evaluate(
    run: Run, data: RunData, process: DistributedProcess = SINGLE_PROCESS
) -> dict[str, Any]:
    """Measure the selected weights on the test split, and write the figures and the logits.

    A second call returns the stored figures and does not use the test split again.

    Raises:
        DivergedError: A logit is NaN or infinite.
    """
    if run.has(EVALUATION_FILE):
        return read_figures(run)
    trained, test = load_trained(run), data.split.test
    network = trained.inference_network.to(process.device)
    logits = predict_split(network, data, test, trained.normalize, process)
    if broken := int((~logits.isfinite()).any(dim=1).sum()):
        raise DivergedError(
            f"the network returns NaN or infinity for {broken:,} of {len(test):,} test images: "
            "the training has diverged. Start a new run with a lower optimizer.learning_rate"
        )
    labels = data.images.labels[test]
    metrics = measure(logits.numpy(), labels)
    figures = {
        "split": "test",
        **metrics.model_dump(exclude={"top_scores"}),
        "best_epoch": trained.epoch,
        "opened_at": now().isoformat(),
    }
    if process.is_main:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, logits=logits.numpy(), labels=labels)
        run.write(LOGITS_FILE, buffer.getvalue())
        run.write_json(EVALUATION_FILE, figures)
    process.barrier()
    return figures


def measure(
    scores: Logits,
    labels: NDArray[np.int64],
    outputs: Outputs = _LOGITS,
    calibration: Calibration | None = None,
) -> Metrics:
    """Metrics of scores `[n, classes]`, which are logits or probabilities as `outputs` says.

    Only the top scores are calibrated.
    """
    given, of_labels = torch.from_numpy(scores), torch.from_numpy(labels)
    hits = given.argsort(dim=1, descending=True)[:, :5] == of_labels[:, None]
    correct = int(hits[:, 0].sum())
    if outputs.kind == "logits":
        of_classes, log_probabilities = given.softmax(1), given.log_softmax(1)
    else:
        of_classes, log_probabilities = given, given.clamp(min=_SMALLEST_PROBABILITY).log()
    return Metrics(
        top1=correct / len(labels),
        top5=int(hits.sum()) / len(labels),
        test_images=len(labels),
        top1_interval=wilson_interval(correct, len(labels)),
        ece=expected_calibration_error(of_classes, of_labels),
        loss=functional.nll_loss(log_probabilities, of_labels).item(),
        top_scores=measure_top_scores(scores, outputs, calibration),
    )


def measure_top_scores(
    scores: Logits, outputs: Outputs, calibration: Calibration | None = None
) -> TopScores:
    """Measure the distribution of the top scores that the service would return.

    Args:
        scores: What the model computes for each image, float32 `[n, classes]`.
        outputs: Says whether the scores are logits.
        calibration: How they become probabilities; None for a temperature of 1.
    """
    temperature = calibration.temperature if calibration else 1.0
    top = probabilities(scores, outputs, temperature).max(axis=1).astype(np.float64).clip(0, 1)
    values = np.percentile(top, TOP_SCORE_PERCENTILES).tolist()
    return TopScores.model_validate(
        {
            "mean": float(top.mean()),
            "percentiles": dict(zip(map(str, TOP_SCORE_PERCENTILES), values, strict=True)),
        }
    )


def read_figures(run: RunDirectory) -> dict[str, Any]:
    """Return the content of `evaluation.json`. Raises RunError if it is missing or damaged."""
    figures = run.read_json(EVALUATION_FILE, "evaluate")
    if not isinstance(figures, dict) or not figures.keys() >= _REQUIRED_FIGURES:
        raise damaged_file_error(run.path / EVALUATION_FILE, ValueError("figures are missing"))
    return figures


def read_logits(run: RunDirectory) -> NDArray[np.float32]:
    """Return torch's logits of the test split, float32 `[images, classes]`. Raises RunError."""
    return np.asarray(_read_array(run, "logits"), np.float32)


def read_labels(run: RunDirectory) -> NDArray[np.int64]:
    """Return the labels of the test split, int64 `[images]`. Raises RunError."""
    return np.asarray(_read_array(run, "labels"), np.int64)


def _read_array(run: RunDirectory, name: str) -> NDArray[Any]:
    path = run.file(LOGITS_FILE, "evaluate")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return np.asarray(archive[name])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise damaged_file_error(path, error) from None


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy, over bins of equal width.

    Args:
        probabilities: float `[n, classes]`.
        labels: int64 `[n]`.
        bins: Number of bins. A confidence of exactly 1 belongs to the last one.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.
    """
    confidence, predicted = probabilities.max(dim=1)
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    gaps = confidence.double() - (predicted == labels).double()
    by_bin = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, gaps)
    return by_bin.abs().sum().item() / len(labels)
