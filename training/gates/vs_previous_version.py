"""Gate of retraining: the new model against the previous version, on the same test images."""

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.proportions import mcnemar
from training.errors import RunError
from training.run.data import RunData
from training.run.directory import Run, RunDirectory, damaged_file_error
from training.run.inference import predict_split
from training.run.weights import PREVIOUS_WEIGHTS, read_weights
from training.steps.evaluate import read_logits

PREVIOUS_COMPARISON_FILE: Final = "succession.json"
SIGNIFICANCE: Final = 0.05


@dataclass(frozen=True)
class ClassComparison:
    """Test images of one class. The field names are part of `succession.json`.

    Attributes:
        name: The class.
        images: Number of test images.
        old_right: Correct answers of the previous version; None for a new class.
        like_old: Correct answers of the new model among the previous version's classes; None for a
            new class.
        new_right: Correct answers of the new model among all classes.
    """

    name: str
    images: int
    old_right: int | None
    like_old: int | None
    new_right: int


@dataclass(frozen=True)
class PreviousComparison:
    """The new model against the previous version, on test images of the classes that both have.

    Both models choose among these classes only, because the previous version lacks the new ones.

    Attributes:
        classes: One entry per class of the new model.
        gained: Images that only the new model classifies correctly.
        lost: Images that only the previous version classifies correctly.
    """

    classes: tuple[ClassComparison, ...]
    gained: int
    lost: int

    @property
    def has_new_classes(self) -> bool:
        return any(line.old_right is None for line in self.classes)

    @property
    def p_worse(self) -> float:
        """P-value of McNemar's test; small if the new model is worse."""
        return mcnemar(self.gained, self.lost)


def read_previous_comparison(run: RunDirectory) -> PreviousComparison:
    """Return what `compare_with_previous` wrote. Raises RunError if it is missing or damaged."""
    values = run.read_json(PREVIOUS_COMPARISON_FILE, "gate")
    try:
        classes = tuple(ClassComparison(**line) for line in values["classes"])
        return PreviousComparison(classes, values["gained"], values["lost"])
    except (TypeError, KeyError) as error:
        raise damaged_file_error(run.path / PREVIOUS_COMPARISON_FILE, error) from None


def compare_with_previous(run: Run, data: RunData) -> PreviousComparison:
    """Compare both models on the test split; writes `succession.json`.

    Raises:
        RunError: The run retrains no version, or has not been evaluated.
    """
    if not run.has(PREVIOUS_WEIGHTS):
        raise RunError(f"{run.path} retrains no version, so there is nothing to compare with")
    previous = read_weights(run.path / PREVIOUS_WEIGHTS)
    test, old_classes = data.split.test, previous.classes  # new classes follow the old ones
    labels = data.images.labels[test]
    shared = labels < old_classes
    logits = read_logits(run)
    new_right = logits.argmax(axis=1) == labels
    like_old = logits[:, :old_classes].argmax(axis=1) == labels
    old_logits = predict_split(previous.inference_network, data, test[shared], previous.normalize)
    old_right = np.zeros(len(test), bool)
    old_right[shared] = old_logits.argmax(1).numpy() == labels[shared]

    def count(correct: NDArray[np.bool_], label: int) -> int:
        return int(correct[labels == label].sum())

    classes = tuple(
        ClassComparison(
            name=name,
            images=int((labels == label).sum()),
            old_right=count(old_right, label) if label < old_classes else None,
            like_old=count(like_old, label) if label < old_classes else None,
            new_right=count(new_right, label),
        )
        for label, name in enumerate(data.images.class_names)
    )
    comparison = PreviousComparison(
        classes,
        gained=int((like_old & ~old_right)[shared].sum()),
        lost=int((old_right & ~like_old)[shared].sum()),
    )
    run.write_json(PREVIOUS_COMPARISON_FILE, {**asdict(comparison), "p_worse": comparison.p_worse})
    return comparison
