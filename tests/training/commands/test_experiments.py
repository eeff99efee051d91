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
    """Two networks of one depth: no step in depth, so no sentence, but errors and curves."""
    code, output = run("degradation", *LENGTH, "--depths", "20", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"))
    assert code == 0, output
    page = tmp_path / "out" / "degradation" / "index.html"
    assert page.exists()
    assert f"the report: {page}" in output.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("degradation", *LENGTH, "--depths", "20,20"), "names a number twice"),
        (("degradation", *LENGTH, "--depths", "20,many"), "'many' is not a valid integer"),
        (("degradation", *LENGTH, "--depths", "21"), "there is no architecture 'plain21'"),
        (("degradation", "--depths", "20"), "Missing option '--data'"),
        (("degradation", "--data", "no-such-folder"), "no-such-folder"),
        (("degradation", *LENGTH, "--seeds", "-1"), "-1 is not in the range"),
        (("degradation", *LENGTH, "--recipe", "nobody"), "there is no recipe 'nobody'"),
        (("nothing", *LENGTH), "No such command 'nothing'"),
    ],
)
def test_what_can_not_be_is_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    """Exit code 1 or 2, no traceback, and nothing is written."""
    options = () if words[0] == "nothing" else ("--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"))
    code, output = run(*words, *options)
    assert code in {1, 2}
    assert said in output
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()
