"""Evaluation: the test split, opened once, through the store's preprocessing."""

import io
import math
import zipfile
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_store.manifest import now
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.run.data import RunData
from training.run.directory import RunDirectory, damaged
from training.run.inference import predict_split
from training.run.weights import load_trained

EVALUATION_FILE: Final = "evaluation.json"
LOGITS_FILE: Final = "evaluation.npz"


def evaluate(
    run: RunDirectory, data: RunData, process: DistributedProcess = SINGLE_PROCESS
) -> dict[str, Any]:
    """Measure the chosen weights on the test split; leaves the figures and the logits.

    A run that has been evaluated keeps its figures: the test split is not opened a second time.
    """
    if run.has(EVALUATION_FILE):
        return read_figures(run)
    trained = load_trained(run)
    test = data.split.test
    logits = predict_split(
        trained.answering.to(process.device), data, test, trained.normalize, process
    )
    labels = data.labels(test)
    right = logits.argsort(dim=1, descending=True) == labels[:, None]
    correct = int(right[:, 0].sum())
    figures = {
        "split": "test",
        "test_images": len(test),
        "top1": correct / len(test),
        "top1_interval": wilson_interval(correct, len(test)),
        "top5": int(right[:, :5].sum()) / len(test),
        "loss": functional.cross_entropy(logits, labels).item(),
        "ece": calibration_error(logits.softmax(1), labels),
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
    """The figures that `evaluate` left. Raises RunError."""
    figures = run.read_json(EVALUATION_FILE, "evaluate")
    if not isinstance(figures, dict) or not {
        "top1",
        "top1_interval",
        "top5",
        "loss",
        "test_images",
        "best_epoch",
    } <= set(figures):
        raise damaged(run.path / EVALUATION_FILE, ValueError("figures are missing"))
    return figures


def read_logits(run: RunDirectory) -> NDArray[np.float32]:
    """The torch network's logits on the test split, float32 `[test images, classes]`. Raises RunError."""
    return np.asarray(_read_array(run, "logits"), np.float32)


def read_labels(run: RunDirectory) -> NDArray[np.int64]:
    """The test split's labels, int64 `[test images]`. Raises RunError."""
    return np.asarray(_read_array(run, "labels"), np.int64)


def _read_array(run: RunDirectory, name: str) -> NDArray[Any]:
    path = run.file(LOGITS_FILE, "evaluate")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return np.asarray(archive[name])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise damaged(path, error) from None


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): the mean gap of confidence and accuracy over bins of equal width."""
    confidence, predicted = probabilities.max(dim=1)
    bin_of = (
        (confidence * bins).long().clamp(max=bins - 1)
    )  # a confidence of exactly 1 belongs to the last bin
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(
        0, bin_of, confidence.double() - (predicted == labels).double()
    )
    return gaps.abs().sum().item() / len(labels)


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927), 95 % by default: right also near 0 and 1."""
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    denominator = 1 + z * z / trials
    return (max(0.0, (centre - half) / denominator), min(1.0, (centre + half) / denominator))
