"""Evaluation: the selected weights on the test split, once per run."""

import io
import zipfile
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_store.manifest import now
from model_store.proportions import wilson_interval
from training.errors import DivergedError
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.run.data import RunData
from training.run.directory import Run, RunDirectory, damaged_file_error
from training.run.inference import predict_split
from training.run.weights import load_trained

EVALUATION_FILE: Final = "evaluation.json"
LOGITS_FILE: Final = "evaluation.npz"
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
    labels = data.labels(test)
    matches = logits.argsort(dim=1, descending=True) == labels[:, None]
    correct = int(matches[:, 0].sum())
    figures = {
        "split": "test",
        "test_images": len(test),
        "top1": correct / len(test),
        "top1_interval": wilson_interval(correct, len(test)),
        "top5": int(matches[:, :5].sum()) / len(test),
        "loss": functional.cross_entropy(logits, labels).item(),
        "ece": expected_calibration_error(logits.softmax(1), labels),
        "best_epoch": trained.epoch,
        "opened_at": now().isoformat(),
    }
    if process.is_main:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, logits=logits.numpy(), labels=labels.numpy())
        run.write(LOGITS_FILE, buffer.getvalue())
        run.write_json(EVALUATION_FILE, figures)
    process.barrier()
    return figures


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
