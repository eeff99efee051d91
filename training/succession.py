"""A retrained model and the one it follows, on the same test images: what was gained and lost, class by class."""

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from scipy.stats import binomtest

from training.errors import RunError
from training.evaluation import read_logits
from training.run_data import RunData
from training.run_directory import RunDirectory
from training.weights import PREVIOUS, predict_split, read_weights

SUCCESSION: Final = "succession.json"
SIGNIFICANCE: Final = 0.05


@dataclass(frozen=True)
class ClassSuccession:
    """One class's test images: how many, and how many each model got right; the old one none of a class that it did not have."""

    name: str
    images: int
    old_right: int | None
    new_right: int


@dataclass(frozen=True)
class Succession:
    """`gained` and `lost` are test images of the classes that both have which only the new or only the old model got right."""

    classes: tuple[ClassSuccession, ...]
    gained: int
    lost: int

    @property
    def p_worse(self) -> float:
        """McNemar's exact test, one-sided: the chance of as many losses if the new model were no worse than the old one."""
        changed = self.gained + self.lost
        return float(binomtest(self.lost, changed, alternative="greater").pvalue) if changed else 1.0


def compare_with_previous(run: RunDirectory, data: RunData) -> Succession:
    """Both models on the test split; the new one has all classes to choose from. Leaves `succession.json`.

    Raises RunError where the run goes on from no version, or has not been evaluated.
    """
    if not run.has(PREVIOUS):
        raise RunError(f"{run.path} goes on from no version, so there is nothing to compare it with")
    previous = read_weights(run.path / PREVIOUS)
    test = data.split.test
    labels = data.images.labels[test]
    shared = labels < previous.classes  # the classes that it had stand first
    new_right = read_logits(run).argmax(axis=1) == labels
    old_right = np.zeros(len(test), bool)
    old_right[shared] = (
        predict_split(previous.answering, data, test[shared], previous.normalize).argmax(1).numpy() == labels[shared]
    )
    classes = tuple(
        ClassSuccession(
            name=name,
            images=int((labels == label).sum()),
            old_right=int(old_right[labels == label].sum()) if label < previous.classes else None,
            new_right=int(new_right[labels == label].sum()),
        )
        for label, name in enumerate(data.images.class_names)
    )
    succession = Succession(
        classes, gained=int((new_right & ~old_right)[shared].sum()), lost=int((old_right & ~new_right)[shared].sum())
    )
    run.write_json(SUCCESSION, {**asdict(succession), "p_worse": succession.p_worse})
    return succession
