"""`experiment`: what a person types, and what it answers to what can not be."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from training.__main__ import main

LENGTH = ("--data", "digits", "--set", "iterations=3", "--seeds", "0")


def run(*words: str) -> tuple[int, str]:
    """Exit code and output of `python -m training experiment …`."""
    result = CliRunner().invoke(main, ["experiment", *words], obj=Console())
    return result.exit_code, result.output


def test_it_writes_a_report_and_says_its_sentences(tmp_path: Path) -> None:
    """Two depths of two kinds, for three steps."""
    code, output = run(
        "degradation",
        *LENGTH,
        "--depths",
        "20,32",
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
    )
    assert code == 0, output
    page = tmp_path / "out" / "degradation" / "index.html"
    assert page.exists()
    assert f"the report: {page}" in output.replace("\n", "")


@pytest.mark.parametrize(
    "words",
    [
        ("responses", "--depths", "20", "--images", "20"),
        ("lesions", "--depth", "20", "--images", "20", "--draws", "1"),
    ],
)
def test_what_measures_says_how_much(tmp_path: Path, words: tuple[str, ...]) -> None:
    """The report's command has the number of images with which it was measured."""
    code, output = run(
        *words, *LENGTH, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")
    )
    assert code == 0, output
    report = (tmp_path / "out" / words[0] / "report.md").read_text()
    assert (
        f"experiment {words[0]} --data digits --set iterations=3 {' '.join(words[1:])} --seeds 0"
        in report
    )
    assert "20 test images" in report


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("degradation", *LENGTH, "--depths", "20,20"), "names a number twice"),
        (("degradation", *LENGTH, "--depths", "20,many"), "'many' is not a valid integer"),
        (("degradation", *LENGTH, "--depths", "20,21"), "there is no architecture 'plain21'"),
        (("degradation", *LENGTH, "--depths", "18,20"), "are of two kinds"),
        (("degradation", *LENGTH, "--depths", "20"), "one depth shows nothing"),
        (
            ("degradation", *LENGTH, "--set", "mixing.mixup=0.2"),
            "of mixed images there is no training error",
        ),
        (("identity", *LENGTH, "--depth", "18", "--deeper", "34"), "have stages of their own kind"),
        (
            ("identity", *LENGTH, "--depth", "20", "--deeper", "21"),
            "there is no architecture 'plain21'",
        ),
        (("identity", *LENGTH, "--depth", "32", "--deeper", "20"), "is not deeper than one of 32"),
        (("gradients", *LENGTH, "--depths", "21,32"), "there is no architecture 'plain21'"),
        (("lesions", *LENGTH, "--depth", "21"), "there is no architecture 'plain21'"),
        (("shortcuts", *LENGTH, "--depth", "34"), "there is no architecture 'resnet34-b'"),
        (("degradation", "--depths", "20"), "Missing option '--data'"),
        (("degradation", "--data", "no-such-folder"), "no-such-folder"),
        (("degradation", *LENGTH, "--seeds", "-1"), "-1 is not in the range"),
        (("degradation", *LENGTH, "--recipe", "nobody"), "there is no recipe 'nobody'"),
        (("lesions", *LENGTH, "--depth", "50"), "there is no architecture 'plain50'"),
        (("lesions", *LENGTH, "--draws", "0"), "0 is not in the range"),
        (("responses", *LENGTH, "--images", "0"), "0 is not in the range"),
        (("nothing", *LENGTH), "No such command 'nothing'"),
    ],
)
def test_what_can_not_be_is_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    """Exit code 1 or 2, no traceback, and nothing is trained or written."""
    options = (
        ()
        if words[0] == "nothing"
        else ("--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"))
    )
    code, output = run(*words, *options)
    assert code in {1, 2}
    assert said in output
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()
