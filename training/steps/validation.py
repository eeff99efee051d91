"""Validation at the end of an epoch, and the choice of the best epoch."""

import math
from typing import Any, Literal

from torch import nn
from torch.nn import functional

from training.errors import DivergedError
from training.learning.distributed import DistributedProcess
from training.learning.normalization import Normalization
from training.run.data import RunData
from training.run.inference import predict_split


def validate(
    network: nn.Module, data: RunData, normalize: Normalization, process: DistributedProcess
) -> dict[str, float]:
    """Measure loss and accuracy on the validation split."""
    logits = predict_split(network, data, data.split.validation, normalize, process)
    labels = data.labels(data.split.validation)
    return {
        "validation_loss": functional.cross_entropy(logits, labels).item(),
        "validation_top1": (logits.argmax(1) == labels).double().mean().item(),
    }


def require_finite(validation: dict[str, float], epoch: int, training_loss: float) -> None:
    """Raise DivergedError if the validation loss is not finite."""
    if not math.isfinite(validation["validation_loss"]):
        raise DivergedError(
            f"the validation loss is not finite after epoch {epoch}, although the training "
            f"loss is {training_loss:.3g}: weights or batch-norm statistics have overflowed. Lower "
            "optimizer.learning_rate"
        )


def is_better(
    metrics: dict[str, Any],
    history: list[dict[str, Any]],
    select: Literal["accuracy", "loss", "last"],
) -> bool:
    """Whether this epoch's weights are kept. The first of equal epochs is kept."""
    if select == "last":
        return True

    def rank(line: dict[str, Any]) -> tuple[float, float]:
        accuracy, loss = line["validation_top1"], line["validation_loss"]
        return (accuracy, -loss) if select == "accuracy" else (-loss, accuracy)

    return all(rank(metrics) > rank(line) for line in history)
