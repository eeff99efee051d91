"""What is said of a version that was published: whether it serves, and what the one before it had."""

from pathlib import Path

import pytest
from rich.console import Console

from model_store.manifest import Precision, Variant
from model_store.store import BUILTIN_ROOT, ModelStore
from training.commands.run import print_published
from training.display import TrainingDisplay
from training.promotion import pin_serving_version
from training.steps.publish import Published

DIGITS = "digits-resnet20"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty store without built-in models."""
    (tmp_path / "store").mkdir()
    return ModelStore(tmp_path / "store", builtin_root=None)


def publish(store: ModelStore, *precisions: Precision) -> int:
    """The digits as a version that says it has these precisions, all in one file."""
    with ModelStore(BUILTIN_ROOT, builtin_root=None).open(DIGITS, 1) as version:
        manifest = version.manifest
        fields = {
            name: getattr(manifest, name)
            for name in type(manifest).model_fields
            if name not in {"files", "model"}
        }
        fields["variants"] = tuple(
            Variant(precision=name, file="model.onnx", tolerance=1) for name in precisions
        )
        return store.publish(
            "m", fields, {entry.path: version.path(entry.path) for entry in manifest.files}
        )


def said(store: ModelStore, number: int) -> str:
    console = Console(width=500)
    promoted = store.aliases("m").version("production") == number
    with console.capture() as captured:
        print_published(TrainingDisplay(console), "m", Published(number, promoted), store.root)
    return captured.get()


def test_a_version_that_production_names_needs_no_more_words(store: ModelStore) -> None:
    """Where it is, and how to serve the store."""
    store.promote("m", publish(store, "fp32"))
    assert "published m version 1" in said(store, 1)
    assert "promote" not in said(store, 1)


def test_the_first_version_serves_though_held_back(store: ModelStore) -> None:
    """Without `production` the newest serves, and nobody is told otherwise."""
    publish(store, "fp32")
    assert "the newest version does, and that is this one" in said(store, 1)


def test_a_version_that_is_held_back_says_which_one_serves(store: ModelStore) -> None:
    """And the command that would have it serve."""
    publish(store, "fp32")
    pin_serving_version(store, "m")
    publish(store, "fp32")
    assert "`production` stays at version 1" in said(store, 2)
    assert f"python -m model_store --store {store.root} promote m 2" in said(store, 2)


@pytest.mark.parametrize("promoted", [True, False])
def test_a_precision_left_behind_is_said_with_the_command_that_makes_it(
    store: ModelStore, *, promoted: bool
) -> None:
    """A training publishes fp32 alone; the version before it may have answered in INT8."""
    store.promote("m", publish(store, "fp32", "int8"))
    publish(store, "fp32")
    if promoted:
        store.promote("m", 2)
    assert "version 1 answers in int8 too, version 2 does not" in said(store, 2)
    assert f"python -m training quantize m/2 --precision int8 --store {store.root}" in said(
        store, 2
    )


def test_nothing_is_missed_that_is_still_there(store: ModelStore) -> None:
    """Nor what a version of long ago had."""
    for precisions in (("fp32", "int8", "fp16"), ("fp32", "int8"), ("fp32", "int8")):
        store.promote("m", publish(store, *precisions))  # type: ignore[arg-type]
    assert "quantize" not in said(store, 3)
