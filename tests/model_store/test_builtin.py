"""The models that ship: whole, proven here, small, and of a named origin."""

import numpy as np
import pytest

from model_store import golden
from model_store.sealed_model import load_density
from model_store.session import Session
from model_store.store import BUILTIN_DEFAULT_MODEL, BUILTIN_ROOT, ModelStore
from model_store.uncertainty import energy

STORE = ModelStore(BUILTIN_ROOT, builtin_root=None)
MAX_BYTES = {"cifar10": 4_100_000, "digits-resnet20": 1_500_000, "fashion-resnet20": 1_500_000}


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


def test_the_photograph_of_the_guides_is_accepted_and_noise_is_refused() -> None:
    """By the density of the default model."""
    with STORE.open(BUILTIN_DEFAULT_MODEL, 1) as version:
        manifest = version.manifest
        session = Session(version.path("model.onnx"), manifest.input, manifest.outputs)
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
