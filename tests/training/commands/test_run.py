"""The text after a publish: the served version, the next command, and missing variants."""

import shlex
from pathlib import Path

import pytest
from rich.console import Console

from model_store.manifest import Precision, Variant
from model_store.store import BUILTIN_ROOT, ModelStore
from training.commands.common import print_published
from training.display import TrainingDisplay
from training.promotion import pin_serving_version
from training.steps.publish import Published

DIGITS = "digits-resnet20"


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server of the person who runs the tests is asked: nothing listens at port 1."""
    monkeypatch.setenv("SERVICE_PORT", "1")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty store without built-in models."""
    (tmp_path / "store").mkdir()
    return ModelStore(tmp_path / "store", builtin_root=None)


def publish(store: ModelStore, *precisions: Precision) -> int:
    """Publish the digits with variants of these precisions, all in one file."""
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


def print_result(store: ModelStore, number: int) -> str:
    """Return the text that `run` prints for this version."""
    console = Console(width=500)
    promoted = store.aliases("m").version("production") == number
    with console.capture() as captured:
        print_published(TrainingDisplay(console), "m", Published(number, promoted), store.root)
    return captured.get()


def test_a_promoted_version_is_served_next(store: ModelStore) -> None:
    """The last line is the command that serves the store."""
    store.promote("m", publish(store, "fp32"))
    text = print_result(store, 1)
    assert "published m version 1" in text
    *_, command, request = text.splitlines()
    assert command == f"next: python -m service --store {store.root}"
    image = shlex.split(request)[3]
    assert Path(image.removeprefix("@")).is_file()
    assert request.endswith("/v1/models/m/predict")


def test_the_first_version_serves_without_promotion(store: ModelStore) -> None:
    """`production` is not set, so the newest version serves."""
    publish(store, "fp32")
    assert "`production` is not set" in print_result(store, 1)


def test_a_version_without_promotion_names_the_one_that_serves(store: ModelStore) -> None:
    """The last line is the command that promotes it."""
    publish(store, "fp32")
    pin_serving_version(store, "m")
    publish(store, "fp32")
    text = print_result(store, 2)
    assert "`production` stays at version 1" in text
    command = f"python -m model_store promote m 2 --store {store.root}"
    assert text.splitlines()[-1] == f"next: {command}"


@pytest.mark.parametrize("promoted", [True, False])
def test_missing_variants_are_listed_with_the_commands_that_create_them(
    store: ModelStore, *, promoted: bool
) -> None:
    """A training publishes only fp32; the version before it may have more variants."""
    store.promote("m", publish(store, "fp32", "int8"))
    publish(store, "fp32")
    if promoted:
        store.promote("m", 2)
    command = f"python -m training quantize m/2 --precision int8 --store {store.root}"
    assert command in print_result(store, 2)


def test_only_the_version_that_served_before_is_compared(store: ModelStore) -> None:
    """Variants of older versions are not missing."""
    for precisions in (("fp32", "int8", "fp16"), ("fp32", "int8"), ("fp32", "int8")):
        store.promote("m", publish(store, *precisions))  # type: ignore[arg-type]
    assert "quantize" not in print_result(store, 3)
