"""The `quantize` command."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from model_store.store import ModelStore
from training.__main__ import main
from training.quantization import checks, variants
from training.quantization.sensitivity import Sensitivity

DIGITS = "digits-resnet20"


def quantize(store: Path, *words: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        main, ["quantize", *words, "--store", str(store)]
    )


def test_a_built_in_model_gets_a_version_with_int8(tmp_path: Path) -> None:
    """The command finds the data itself. Speed is waived, because test machines are busy."""
    result = quantize(
        tmp_path / "store",
        DIGITS,
        "--no-sweep",
        "--waive",
        "speed=a test",
        "--calibration-images",
        "64",
    )
    assert result.exit_code == 0, result.output
    for words in (
        "int8 of digits-resnet20/1",
        "top1_loss",
        "359 images",
        "published digits-resnet20 version 1",
    ):
        assert words in result.output
    with ModelStore(tmp_path / "store").open(DIGITS, 1) as version:
        assert [variant.precision for variant in version.manifest.variants] == ["fp32", "int8"]


def test_the_sweep_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensitivity = Sensitivity("network.layer3.1.conv1.weight", 0.25)
    monkeypatch.setattr(variants, "sweep", lambda *_: (sensitivity,))
    result = quantize(
        tmp_path / "store", DIGITS, "--waive", "speed=a test", "--calibration-images", "16"
    )
    (line,) = [line for line in result.output.splitlines() if sensitivity.layer in line]
    assert "0.25" in line


def test_a_failed_check_prevents_publication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code is 1, and the output shows how to waive the check."""
    monkeypatch.setitem(checks.MAX_SIZE_SHARE, "int8", 0.1)  # type: ignore[arg-type]
    result = quantize(
        tmp_path / "store",
        DIGITS,
        "--no-sweep",
        "--waive",
        "speed=a test",
        "--calibration-images",
        "16",
    )
    assert result.exit_code == 1
    assert "--waive size=" in result.output
    assert not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize(
    ("words", "code", "answer"),
    [
        (("unknown",), 1, "'unknown'"),
        ((f"{DIGITS}/7",), 1, "version 7"),
        ((f"{DIGITS}/07",), 1, "07"),
        (("cifar10",), 1, "--data"),
        ((DIGITS, "--data", "nowhere"), 1, "'nowhere'"),
        ((DIGITS, "--data-dir", "nowhere"), 2, "does not exist"),
        ((DIGITS, "--precision", "fp32"), 2, "'fp32' is not one of"),
        ((DIGITS, "--max-loss", "-1"), 2, "is not in the range"),
        ((DIGITS, "--calibration-images", "0"), 2, "is not in the range"),
        (
            (DIGITS, "--waive", "parity_top1=no"),
            1,
            "parity_top1",
        ),
        ((DIGITS, "--waive", "speed"), 1, "CHECK=REASON"),
        ((DIGITS, "--precision", "bf16"), 1, "bf16"),
        (
            (DIGITS, "--no-promote"),
            1,
            "--no-promote",
        ),
    ],
)
def test_errors_are_one_line_with_an_exit_code(
    words: tuple[str, ...], code: int, answer: str, tmp_path: Path
) -> None:
    """There is no traceback."""
    result = quantize(tmp_path / "store", *words)
    assert result.exit_code == code, result.output
    assert answer in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
