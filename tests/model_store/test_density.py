"""The density of a version: its scores, its file, and what is rejected."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from model_store.density import Density
from model_store.errors import ManifestError
from model_store.sealed_model import load_density, load_variant
from model_store.store import BUILTIN_ROOT, ModelStore

DIMS, CLASSES = 4, 3


def some_density() -> Density:
    random = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    return Density(
        whitening=draw(DIMS, DIMS),
        mean=draw(DIMS),
        unit_whitening=draw(DIMS, DIMS),
        unit_means=draw(CLASSES, DIMS),
        center=draw(3),
        scale=np.abs(draw(3)) + 1,
        threshold=np.float32(2).reshape(()),
        energy_slope=np.float32(0.5).reshape(()),
    )


def test_scores_are_standardized_distances_and_the_energy() -> None:
    """Written out for each image: from the mean, from the nearest class mean, and the energy."""
    density, random = some_density(), np.random.default_rng(1)
    embeddings = random.normal(size=(7, DIMS)).astype(np.float32)
    energies = random.normal(size=7).astype(np.float32) * 10
    of_embedding, of_energy = density.score(embeddings, energies)
    for image, (embedding, value) in enumerate(zip(embeddings, energies, strict=True)):
        from_mean = np.linalg.norm(embedding @ density.whitening - density.mean)
        unit = embedding / np.linalg.norm(embedding) @ density.unit_whitening
        from_class = min(np.linalg.norm(unit - mean) for mean in density.unit_means)
        standard = (np.array([from_mean, from_class, value]) - density.center) / density.scale
        expected = standard[0] + standard[1] - 0.5 * standard[2]
        assert of_embedding[image] == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert of_energy[image] == pytest.approx(max(standard[2], -2), rel=1e-4, abs=1e-4)
    assert (of_energy == -2).any()
    assert (of_energy > -2).any()


@pytest.mark.parametrize("model", ["cifar10", "digits-resnet20", "fashion-resnet20"])
def test_distances_of_built_in_models_are_precise(model: str) -> None:
    """In float32, as in float64 with a difference for each class."""
    with ModelStore(BUILTIN_ROOT).open(model, 1) as version:
        side = version.manifest.input.height
        session = load_variant(version, version.manifest.variants[0])
        density = load_density(version, session.embedding_dims)
    pixels = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), np.uint8)
    _, embeddings = session.run_with_embedding(pixels)
    exact = embeddings.astype(float)
    from_mean = np.linalg.norm(exact @ density.whitening - density.mean, axis=1)
    units = exact / np.linalg.norm(exact, axis=1, keepdims=True) @ density.unit_whitening
    to_classes = np.linalg.norm(units[:, np.newaxis] - density.unit_means, axis=2).min(axis=1)
    expected = np.stack([from_mean, to_classes], axis=1)
    np.testing.assert_allclose(density.distances(embeddings), expected, rtol=1e-4)


def test_the_score_of_an_image_does_not_depend_on_its_batch() -> None:
    density = some_density()
    embeddings = np.random.default_rng(2).normal(size=(9, DIMS)).astype(np.float32)
    energies = np.zeros(9, np.float32)
    together = density.score(embeddings, energies)[0]
    alone = [density.score(embeddings[[row]], energies[:1])[0][0] for row in range(9)]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_an_embedding_of_zeros_has_a_finite_score() -> None:
    parts = some_density().score(np.zeros((1, DIMS), np.float32), np.zeros(1, np.float32))
    assert np.isfinite(parts).all()


def test_the_file_keeps_every_bit() -> None:
    density = some_density()
    again = Density.from_bytes(density.to_bytes())
    for name in ("whitening", "mean", "unit_whitening", "unit_means", "center", "scale"):
        assert np.array_equal(getattr(again, name), getattr(density, name))
    assert (again.threshold, again.energy_slope) == (density.threshold, density.energy_slope)


def test_the_file_has_no_values_that_are_computed_from_others() -> None:
    with np.load(io.BytesIO(some_density().to_bytes())) as arrays:
        assert set(arrays) == {
            *("whitening", "mean", "unit_whitening", "unit_means"),
            *("center", "scale", "threshold", "energy_slope"),
        }


def test_a_file_without_a_slope_is_read_and_compares_all_energies_alike() -> None:
    values = dict(np.load(io.BytesIO(some_density().to_bytes())))
    del values["energy_slope"]
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    assert Density.from_bytes(buffer.getvalue()).energy_slope == 0


def replaced(**changes: np.ndarray) -> Callable[[], bytes]:
    def content() -> bytes:
        values = dict(np.load(io.BytesIO(some_density().to_bytes()))) | changes
        buffer = io.BytesIO()
        np.savez(buffer, **values)
        return buffer.getvalue()

    return content


def too_large() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.npy", bytes(100 * 1024 * 1024))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        lambda: b"",
        lambda: b"PK\x03\x04 damaged",
        lambda: some_density().to_bytes()[:-40],
        too_large,
        replaced(whitening=np.zeros((DIMS, DIMS + 1), np.float32)),
        replaced(unit_means=np.zeros(DIMS, np.float32)),
        replaced(mean=np.zeros(DIMS)),
        replaced(scale=np.zeros(3, np.float32)),
        replaced(center=np.array([0, np.nan, 0], np.float32)),
        replaced(threshold=np.zeros(1, np.float32)),
        replaced(energy_slope=np.float32(np.inf).reshape(())),
        replaced(threshold=np.array(object())),
    ],
)
def test_a_file_that_is_not_a_density_is_rejected(content: Callable[[], bytes]) -> None:
    """Damaged, too large, of other shapes or types, not finite, or with pickled objects."""
    with pytest.raises(ManifestError):
        Density.from_bytes(content())


def test_a_density_without_an_array_is_rejected() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, mean=some_density().mean)
    with pytest.raises(ManifestError):
        Density.from_bytes(buffer.getvalue())


def test_its_arrays_are_checked_when_it_is_made() -> None:
    with pytest.raises(ManifestError):
        replace(some_density(), mean=np.zeros(DIMS + 1, np.float32))
