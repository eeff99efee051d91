"""`python -m training quantize` as a person types it."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from model_store.store import ModelStore
from training.__main__ import main
from training.quantization import checks

DIGITS = "digits-resnet20"


def quantize(store: Path, *words: str) -> Result:
    """The command on a store of the test's own, over the built-in models."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        main, ["quantize", *words, "--store", str(store)]
    )


def test_a_built_in_model_becomes_a_version_with_int8(tmp_path: Path) -> None:
    """One command finds the data, shows what it measured, and publishes; speed is waived, for tests run on busy machines."""
    done = quantize(
        tmp_path / "store",
        DIGITS,
        "--no-sweep",
        "--waive",
        "speed=a test",
        "--calibration-images",
        "64",
    )
    assert done.exit_code == 0, done.output
    for words in (
        "int8 of digits-resnet20/1",
        "top1_loss",
        "in fp32, of 359 images",
        "published digits-resnet20 version 1",
    ):
        assert words in done.output
    with ModelStore(tmp_path / "store").open(DIGITS, 1) as version:
        assert [variant.precision for variant in version.manifest.variants] == ["fp32", "int8"]


def test_the_sweep_is_shown(tmp_path: Path) -> None:
    """A table of the layers, the worst first."""
    done = quantize(
        tmp_path / "store", DIGITS, "--waive", "speed=a test", "--calibration-images", "16"
    )
    assert "sensitivity" in done.output
    assert "network.layer3.1.conv1.weight" in done.output


def test_a_failed_gate_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 with the table and the way past; nothing is published."""
    monkeypatch.setitem(checks.SIZE, "int8", 0.1)  # type: ignore[arg-type]
    done = quantize(
        tmp_path / "store",
        DIGITS,
        "--no-sweep",
        "--waive",
        "speed=a test",
        "--calibration-images",
        "16",
    )
    assert done.exit_code == 1
    assert "FAILED: of fp32's" in done.output
    assert "not published: size failed" in done.output
    assert "--waive size=" in done.output
    assert not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize(
    ("words", "code", "answer"),
    [
        (("unknown",), 1, "there is no model 'unknown'"),
        ((f"{DIGITS}/7",), 1, "has no version 7"),
        ((f"{DIGITS}/07",), 1, "07"),
        (("cifar10",), 1, "give labelled images with --data"),
        ((DIGITS, "--data", "nowhere"), 1, "there is no data 'nowhere'"),
        ((DIGITS, "--data-dir", "nowhere"), 2, "does not exist"),
        ((DIGITS, "--precision", "fp32"), 2, "'fp32' is not one of"),
        ((DIGITS, "--max-loss", "-1"), 2, "is not in the range"),
        ((DIGITS, "--calibration-images", "0"), 2, "is not in the range"),
        (
            (DIGITS, "--waive", "parity_top1=no"),
            1,
            "there is no check parity_top1; there are top1_loss",
        ),
        ((DIGITS, "--waive", "speed"), 1, "takes CHECK=REASON"),
        ((DIGITS, "--precision", "bf16"), 1, "can not be computed here"),
        (
            (DIGITS, "--no-promote"),
            1,
            "is built in, and a version published under its name would hide it and serve",
        ),
    ],
)
def test_what_can_not_be_done_is_said_in_a_line(
    words: tuple[str, ...], code: int, answer: str, tmp_path: Path
) -> None:
    """No traceback, the right exit code, and what to do."""
    done = quantize(tmp_path / "store", *words)
    assert done.exit_code == code, done.output
    assert answer in done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
