"""The `add-embedding` command."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from older_digits import BUILTIN, DIGITS, publish_older_digits

from model_store.golden import prove
from model_store.manifest import Outputs
from model_store.sealed_model import load_variant
from model_store.store import BUILTIN_ROOT, ModelStore
from training.__main__ import main


def add_embedding(store: Path, *words: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        main, ["add-embedding", *words, "--store", str(store)]
    )


@pytest.fixture
def older(tmp_path: Path) -> ModelStore:
    """A store with the built-in model as releases before 3.0 published it: without embedding."""
    with BUILTIN.open(DIGITS, 1) as version:
        model = onnx.load(version.path("model.onnx"))
    for part in (model.graph.node, model.graph.output):
        part.remove(next(entry for entry in part if entry.name == "embedding"))
    changes = {"outputs": Outputs(features="features"), "density": None}
    files = {"model.onnx": model.SerializeToString()}
    return publish_older_digits(tmp_path / "store", files, **changes)


def test_the_next_version_has_an_embedding_and_the_same_logits(older: ModelStore) -> None:
    """Bit for bit; it names its origin, holds its proof, and `production` points to it."""
    result = add_embedding(older.root, DIGITS)
    assert result.exit_code == 0, result.output
    with older.open(DIGITS, 1) as before, older.open(DIGITS, 2) as after:
        assert before.manifest.outputs.embedding is None
        assert after.manifest.derived_from is not None
        assert after.manifest.derived_from.digest == before.digest
        assert older.resolve(DIGITS) == 2
        old, new = (load_variant(each, each.variant()) for each in (before, after))
        prove(after, new)
        pixels = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
        logits, embeddings = new.run_with_embedding(pixels)
        assert np.array_equal(logits, old.run(pixels))
        with np.load(after.path("classifier.npz")) as head:
            assert np.abs(embeddings @ head["weight"].T + head["bias"] - logits).max() < 1e-4


def test_the_built_in_model_is_made_by_this_command(older: ModelStore) -> None:
    """The published file is the built-in one, byte for byte."""
    assert add_embedding(older.root, DIGITS).exit_code == 0
    built_in = BUILTIN_ROOT / DIGITS / "1" / "model.onnx"
    with older.open(DIGITS, 2) as version:
        assert version.read_file("model.onnx") == built_in.read_bytes()


def test_a_version_with_an_embedding_is_left_alone(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    result = add_embedding(tmp_path / "store", DIGITS)
    assert result.exit_code == 1
    assert "already has an embedding" in result.output
    assert DIGITS not in [path.name for path in (tmp_path / "store").iterdir()]
