"""Fitting a density: its threshold, and when there are too few images."""

import numpy as np
import pytest

from model_store.uncertainty import energy
from training.steps.calibration_fit import most_refused
from training.steps.density_fit import fit_density, share_refused

DIMS, CLASSES = 6, 3
MEANS = 3 * np.eye(CLASSES, DIMS)


def draw(images: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, embeddings and labels of images in three clusters."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % CLASSES
    embeddings = (MEANS[labels] + random.normal(size=(images, DIMS))).astype(np.float32)
    return embeddings[:, :CLASSES].copy(), embeddings, labels


def test_the_threshold_refuses_as_many_images_as_it_may() -> None:
    """Of the fitted images exactly that number, of others at most 5 %; seen ones at most 3 %."""
    _, embeddings, labels = draw(3000, 0)
    logits, fitted, _ = draw(1000, 1)
    density = fit_density(embeddings, labels, (logits, fitted))
    strict = fit_density(embeddings, labels, (logits, fitted), seen=True)
    assert density is not None
    assert strict is not None
    assert share_refused(density, logits, fitted) == pytest.approx(most_refused(1000) / 1000)
    assert share_refused(strict, logits, fitted) == pytest.approx(0.03)
    others = draw(3000, 2)
    assert share_refused(density, *others[:2]) < 0.05


def test_embeddings_far_from_the_training_images_are_refused() -> None:
    """Confident or not: a low energy excuses little, and a high one alone is refused too."""
    _, embeddings, labels = draw(3000, 0)
    logits, fitted, _ = draw(1000, 1)
    density = fit_density(embeddings, labels, (logits, fitted))
    assert density is not None
    far = np.full((1, DIMS), 8, np.float32)
    for confidence in (1, 100):
        confident = np.array([[confidence, 0, 0]], np.float32)
        assert share_refused(density, confident, far) == 1
    unsure = np.full((1, CLASSES), -30, np.float32)
    assert share_refused(density, unsure, MEANS[:1].astype(np.float32)) == 1


@pytest.mark.parametrize(("training", "validation"), [(20, 1000), (3000, 58), (3000, 0)])
def test_too_few_images_give_no_density(training: int, validation: int) -> None:
    _, embeddings, labels = draw(training, 0)
    logits, fitted, _ = draw(validation, 1)
    assert fit_density(embeddings, labels, (logits, fitted)) is None


def test_a_class_without_training_images_gives_no_density() -> None:
    _, embeddings, labels = draw(3000, 0)
    logits, fitted, _ = draw(1000, 1)
    assert fit_density(embeddings, np.minimum(labels, 1), (logits, fitted)) is None


def test_a_class_without_training_images_is_refused_if_not_all_classes_need_images() -> None:
    """The images of the other classes are accepted as before."""
    _, embeddings, labels = draw(3000, 0)
    logits, fitted, fitted_labels = draw(1000, 1)
    kept, known = labels != 1, fitted_labels != 1
    density = fit_density(
        4 * embeddings[kept], labels[kept], (logits[known], 4 * fitted[known]), all_classes=False
    )
    assert density is not None
    assert density.unit_means.shape == (CLASSES - 1, DIMS)
    logits, others, labels = draw(3000, 2)
    assert share_refused(density, logits[labels != 1], 4 * others[labels != 1]) < 0.06
    assert share_refused(density, logits[labels == 1], 4 * others[labels == 1]) > 0.3


def test_distances_are_compared_with_those_of_known_images_of_the_same_energy() -> None:
    """Where confident known images are near, a confident image must be nearer than an unsure one.

    The embedding's part of the score of known images does not depend on their energy.
    """
    random = np.random.default_rng(3)
    _, embeddings, labels = draw(3000, 0)
    spread = random.uniform(0.3, 1.7, (1000, 1))
    fitted = (MEANS[labels[:1000]] + spread * random.normal(size=(1000, DIMS))).astype(np.float32)
    logits = np.repeat(-10 * spread, CLASSES, axis=1).astype(np.float32)  # unsure if far
    density = fit_density(embeddings, labels, (logits, fitted))
    assert density is not None
    assert density.energy_slope > 0
    of_embedding = density.score(fitted, energy(logits))[0]
    assert abs(np.corrcoef(of_embedding, energy(logits))[0, 1]) < 0.02
    assert of_embedding.mean() == pytest.approx(0, abs=0.01)
    image = fitted[:1]
    confident, unsure = (np.full((1, CLASSES), value, np.float32) for value in (-3, -17))
    assert density.score(image, energy(confident))[0] > density.score(image, energy(unsure))[0]
