"""A retrained model and the one it follows, on the same test images: what was gained and lost, class by class."""

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from training.errors import RunError
from training.run.data import RunData
from training.run.directory import RunDirectory, damaged
from training.run.inference import predict_split
from training.run.weights import PREVIOUS_WEIGHTS, read_weights
from training.steps.evaluate import read_logits

SUCCESSION_FILE: Final = "succession.json"
SIGNIFICANCE: Final = 0.05


@dataclass(frozen=True)
class ClassComparison:
    """One class's test images: how many, and how many each model got right.

    `like_old` is how many the new model gets right with the old model's classes alone to choose from. Of a class that the old model
    did not have, its two are None.
    """

    name: str
    images: int
    old_right: int | None
    like_old: int | None
    new_right: int


@dataclass(frozen=True)
class PreviousComparison:
    """Test images of the classes that both models have which only the new one (`gained`) or only the old one (`lost`) got right.

    Both have these classes alone to choose from: a lorry that is taken for a car is no mistake of a model without lorries.
    """

    classes: tuple[ClassComparison, ...]
    gained: int
    lost: int

    @property
    def grown(self) -> bool:
        """Whether the new model has classes that the old one did not have."""
        return any(line.old_right is None for line in self.classes)

    @property
    def p_worse(self) -> float:
        """McNemar's exact test, one-sided: the chance of as many losses if the new model were no worse than the old one."""
        return mcnemar(self.gained, self.lost)


def mcnemar(gained: int, lost: int) -> float:
    """The chance of at least so many losses among the changes if both directions were as likely (McNemar 1947, exact)."""
    return (
        float(binomtest(lost, gained + lost, alternative="greater").pvalue)
        if gained + lost
        else 1.0
    )


def read_previous_comparison(run: RunDirectory) -> PreviousComparison:
    """What `compare_with_previous` left. Raises RunError."""
    values = run.read_json(SUCCESSION_FILE, "gate")
    try:
        return PreviousComparison(
            tuple(ClassComparison(**line) for line in values["classes"]),
            values["gained"],
            values["lost"],
        )
    except (TypeError, KeyError) as error:
        raise damaged(run.path / SUCCESSION_FILE, error) from None


def compare_with_previous(run: RunDirectory, data: RunData) -> PreviousComparison:
    """Both models on the test split. Leaves `succession.json`.

    Raises RunError where the run goes on from no version, or has not been evaluated.
    """
    if not run.has(PREVIOUS_WEIGHTS):
        raise RunError(
            f"{run.path} goes on from no version, so there is nothing to compare it with"
        )
    previous = read_weights(run.path / PREVIOUS_WEIGHTS)
    test, known = (
        data.split.test,
        previous.classes,
    )  # the classes that the old model has stand first
    labels = data.images.labels[test]
    shared = labels < known
    logits = read_logits(run)
    new_right = logits.argmax(axis=1) == labels
    like_old = logits[:, :known].argmax(axis=1) == labels
    old_right = np.zeros(len(test), bool)
    old_answers = (
        predict_split(previous.answering, data, test[shared], previous.normalize).argmax(1).numpy()
    )
    old_right[shared] = old_answers == labels[shared]

    def count(right: NDArray[np.bool_], label: int) -> int:
        return int(right[labels == label].sum())

    classes = tuple(
        ClassComparison(
            name=name,
            images=int((labels == label).sum()),
            old_right=count(old_right, label) if label < known else None,
            like_old=count(like_old, label) if label < known else None,
            new_right=count(new_right, label),
        )
        for label, name in enumerate(data.images.class_names)
    )
    succession = PreviousComparison(
        classes,
        gained=int((like_old & ~old_right)[shared].sum()),
        lost=int((old_right & ~like_old)[shared].sum()),
    )
    run.write_json(SUCCESSION_FILE, {**asdict(succession), "p_worse": succession.p_worse})
    return succession
