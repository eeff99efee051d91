"""`--int8` of `run`, `resume`, `retrain` and `import`: a second version with INT8."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from older_digits import DIGITS, publish_older_digits
from rich.console import Console

from training.__main__ import main
from training.commands.conversion import add_int8
from training.display import TrainingDisplay
from training.quantization import checks, variants
from training.steps.publish import Published


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the sweep of layers, and replace the timing: INT8 is always twice as fast."""

    def times(runs: Mapping[str, Callable[..., object]], *_: object, **__: object) -> object:
        return {name: np.full((4, 2), 2.0 if name == "fp32" else 1.0) for name in runs}

    monkeypatch.setattr(variants, "sweep", lambda *_: ())
    monkeypatch.setattr(checks, "time_alternately", times)


def published(root: Path, sources: tuple[str, ...] = ("digits",)) -> tuple[Published, str]:
    """Call `add_int8` for version 1. Returns the published version and the output."""
    store = publish_older_digits(root)
    console = Console(width=500)
    with console.capture() as captured, TrainingDisplay(console) as display:
        fp32 = Published(1, promoted=True)
        result = add_int8(display, store, DIGITS, fp32, sources, promote=True)
    assert store.versions(DIGITS) == list(range(1, result.version + 1))
    with store.open(DIGITS, result.version) as version:
        names = [variant.precision for variant in version.manifest.variants]
        assert names == ["fp32", "int8"][: result.version]
    return result, captured.get()


def test_the_next_version_has_int8_and_the_output_says_what_it_costs(tmp_path: Path) -> None:
    result, text = published(tmp_path / "store")
    assert result == Published(2, promoted=True)
    (line,) = [line for line in text.splitlines() if line.startswith("test accuracy")]
    for words in ("99.72% in fp32", "359 images", "0.29 times the size", "2.00 times the speed"):
        assert words in line


@pytest.mark.parametrize("fault", ["a check fails", "the data is missing"])
def test_without_int8_the_fp32_version_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The output says why."""
    monkeypatch.setitem(checks.MAX_SIZE_SHARE, "int8", 0.1)  # type: ignore[arg-type]
    missing = fault == "the data is missing"
    result, text = published(tmp_path / "store", ("nowhere",) if missing else ("digits",))
    assert result == Published(1, promoted=True)
    assert "in fp32 only" in text
    assert ("nowhere" if missing else "│ size") in text


@pytest.mark.slow
def test_a_run_with_int8_publishes_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERVICE_PORT", "1")
    for name in ("top1_loss_points", "relative_drift"):
        monkeypatch.setattr(checks, name, lambda *_: 0.0)
    monkeypatch.setattr(variants, "relative_drift", lambda *_: 0.0)
    words = "run --data digits --arch resnet20 --model m --set epochs=2 --int8 --store store"
    floor = ("--set", "accuracy_floor=0.1", "--no-checkpoint")
    result = CliRunner(env={"COLUMNS": "200"}).invoke(main, [*words.split(), *floor])
    assert result.exit_code == 0, result.output
    assert "int8 of m/1" in result.output
    assert result.output.count("published m version") == 1


def test_an_import_with_int8_needs_labelled_images(tmp_path: Path) -> None:
    words = ("import", "--torchvision", "resnet18", "--model", "m", "--int8")
    result = CliRunner().invoke(main, [*words, "--store", str(tmp_path / "store")])
    assert result.exit_code == 2
    assert "--verify" in result.output
