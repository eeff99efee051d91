"""The `fit-density` command."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from older_digits import BUILTIN, DIGITS, publish_older_digits

from model_store.sealed_model import load_density, load_variant
from model_store.uncertainty import energy
from training.__main__ import main
from training.density_of_version import publish_with_density
from training.errors import CalibrationError
from training.quantization.version_data import open_version_data


def fit_density(store: Path, *words: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        main, ["fit-density", *words, "--store", str(store)]
    )


def test_the_next_version_abstains_by_its_density(tmp_path: Path) -> None:
    """The command finds the data itself. Noise is refused, and 2 to 5 % of the test images."""
    store = publish_older_digits(tmp_path / "store", density=None)
    result = fit_density(store.root, DIGITS)
    assert result.exit_code == 0, result.output
    with store.open(DIGITS, 2) as version:
        manifest = version.manifest
        assert manifest.density is not None
        assert manifest.density.abstained is not None
        assert 0.02 < manifest.density.abstained < 0.05
        assert [check.passed for check in manifest.gate if check.check == "density_abstained"] == [
            True
        ]
        session = load_variant(version, version.variant())
        density = load_density(version, session.embedding_dims)
        assert density is not None
        noise = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), np.uint8)
        logits, embeddings = session.run_with_embedding(noise)
        assert (sum(density.score(embeddings, energy(logits))) > density.threshold).all()


def test_the_built_in_density_is_made_by_this_command(tmp_path: Path) -> None:
    """The values are equal within rounding of another machine."""
    store = publish_older_digits(tmp_path / "store")
    assert fit_density(store.root, DIGITS).exit_code == 0
    densities = []
    for each, number in ((store, 2), (BUILTIN, 1)):
        with each.open(DIGITS, number) as version:
            densities.append(load_density(version, 64))
    fitted, sealed = densities
    assert fitted is not None
    assert sealed is not None
    np.testing.assert_allclose(fitted.center, sealed.center, rtol=1e-2)
    np.testing.assert_allclose(fitted.threshold, sealed.threshold, rtol=1e-2)


def test_too_few_images_publish_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.steps.density_fit.MIN_IMAGES_PER_DIM", 1000)
    store = publish_older_digits(tmp_path / "store")
    with store.open(DIGITS, 1) as version:
        data = open_version_data(version, ())
        with pytest.raises(CalibrationError, match="too few"):
            publish_with_density(version, data, store, promote=True)
    assert store.versions(DIGITS) == [1]


def test_a_density_that_refuses_too_many_test_images_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.steps.density_fit.most_refused", lambda images: images // 2)
    store = publish_older_digits(tmp_path / "store")
    result = fit_density(store.root, DIGITS)
    assert result.exit_code == 1
    assert "no density" in result.output
    assert store.versions(DIGITS) == [1]


def test_a_version_with_int8_is_left_alone(tmp_path: Path) -> None:
    """The density of its INT8 variant would be unchecked; the built-in model is one."""
    result = fit_density(tmp_path / "store", DIGITS)
    assert result.exit_code == 1
    assert "density of digits-resnet20/1" in result.output
    assert DIGITS not in [path.name for path in (tmp_path / "store").iterdir()]
