"""The models that ship: whole, proven here, small, and of a named origin."""

import numpy as np
import pytest

from model_store import golden
from model_store.manifest import Precision
from model_store.sealed_model import load_density, load_variant
from model_store.session import Session
from model_store.store import BUILTIN_DEFAULT_MODEL, BUILTIN_ROOT, ModelStore
from model_store.uncertainty import energy
from model_store.version import MAX_REPORT_BYTES

STORE = ModelStore(BUILTIN_ROOT, builtin_root=None)
MAX_BYTES = {"cifar10": 5_000_000, "digits-resnet20": 1_800_000, "fashion-resnet20": 1_800_000}


def test_the_default_model_ships() -> None:
    """What the service falls back to is there."""
    assert BUILTIN_DEFAULT_MODEL in STORE.models()


@pytest.mark.parametrize("model", STORE.models())
def test_a_built_in_model_is_proven_here_and_names_its_origin(model: str) -> None:
    """Files, golden proof and gates are checked here; embedding x weight + bias = logits."""
    with STORE.open(model, 1) as version:
        manifest = version.manifest
        session = Session(version.path("model.onnx"), manifest.input, manifest.outputs)
        golden.prove(version, session)
        pixels = np.stack([golden.load_pixels(version, image) for image in manifest.golden])
        logits, embeddings = session.run_with_embedding(pixels)
        assert load_density(version, session.embedding_dims) is not None
        with np.load(version.path("classifier.npz")) as head:
            assert np.abs(embeddings @ head["weight"].T + head["bias"] - logits).max() < 1e-4
        assert sum(entry.size for entry in manifest.files) < MAX_BYTES[model]
        assert all(check.passed for check in manifest.gate)
        assert manifest.training is not None
        assert manifest.training.command.startswith("python -m training run ")
        assert manifest.training.git_commit is not None
        assert "dirty" not in manifest.training.git_commit


@pytest.mark.parametrize("model", STORE.models())
def test_a_built_in_model_has_a_proven_int8_variant(model: str) -> None:
    """It passed all gates, also that of the density, and is smaller and faster than fp32."""
    with STORE.open(model, 1) as version:
        variant = version.variant("int8")
        golden.prove_numerics(version, load_variant(version, variant), "int8")
        assert all(check.passed for check in variant.gate)
        measured = {check.check: check for check in variant.gate}
        assert {"top1_loss", "abstained", "calibration_error"} <= set(measured)
        assert measured["density_abstained"].value < 0.05
        assert measured["size"].value < 0.4
        assert measured["speed"].value > 1.5


@pytest.mark.parametrize("model", STORE.models())
def test_a_built_in_model_shows_images_of_its_data_and_its_evaluation(model: str) -> None:
    """It has a report, and a golden image of each class. At most two are classified wrongly."""
    with STORE.open(model, 1) as version:
        manifest = version.manifest
        samples = [each for each in manifest.golden if " split, class " in each.purpose]
        labels = [each.purpose.rpartition("class ")[2] for each in samples]
        assert sorted(labels) == sorted(manifest.class_names)
        predicted = [manifest.class_names[int(np.argmax(each.logits))] for each in samples]
        assert sum(map(str.__eq__, labels, predicted)) >= 8
        assert manifest.report_file is not None
        page = version.read_file(manifest.report_file, MAX_REPORT_BYTES).decode()
        for section in ("confusion", "worst", "calibration"):
            assert f'<section id="{section}">' in page
        assert manifest.metrics is not None
        assert f"{manifest.metrics.top1:.2%}" in page


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_photograph_of_the_guides_is_accepted_and_noise_is_refused(
    precision: Precision,
) -> None:
    """By the density of the default model."""
    with STORE.open(BUILTIN_DEFAULT_MODEL, 1) as version:
        manifest = version.manifest
        session = load_variant(version, version.variant(precision))
        density = load_density(version, session.embedding_dims)
        assert density is not None
        (cat,) = (image for image in manifest.golden if image.image == "golden/cat.jpg")
        noise = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), np.uint8)
        for images, least, most in (
            (golden.load_pixels(version, cat)[None], 0, 0),
            (noise, 0.8, 1),
        ):
            logits, embeddings = session.run_with_embedding(images)
            refused = sum(density.score(embeddings, energy(logits))) > density.threshold
            assert least <= refused.mean() <= most
