"""`experiment`: the command line of the experiments."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from pictures import numbered, put
from rich.console import Console

from training.__main__ import main
from training.commands.experiment import experiment
from training.commands.experiment_options import EXPERIMENTS, following_experiment
from training.run.directory import Run

LENGTH = ("--data", "digits", "--set", "iterations=3", "--seeds", "0")


def run(*words: str) -> tuple[int, str]:
    """Exit code and output of `python -m training experiment …`."""
    result = CliRunner().invoke(main, ["experiment", *words], obj=Console())
    return result.exit_code, result.output


@pytest.mark.slow
def test_an_experiment_writes_its_report(tmp_path: Path) -> None:
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
    assert f"report: {page}" in output.replace("\n", " ")
    assert page.as_uri() in output
    last = output[output.rindex("next:") :].replace("\\\n", " ")
    assert " ".join(last.split()) == (
        "next: python -m training experiment identity --data digits --set iterations=3 "
        f"--out {tmp_path}/out --runs {tmp_path}/runs"
    )


def test_the_following_experiment_is_the_next_without_a_report(tmp_path: Path) -> None:
    assert (
        tuple(name for name, command in experiment.commands.items() if not command.hidden)
        == EXPERIMENTS
    )
    assert following_experiment("gradients", tmp_path) == "degradation"
    for name in ("responses", "ablation"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").touch()
    assert following_experiment("identity", tmp_path) == "shortcuts"
    for name in EXPERIMENTS:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "index.html").touch()
    assert following_experiment("identity", tmp_path) is None


@pytest.mark.parametrize(
    "words",
    [
        ("responses", "--depths", "20", "--images", "20"),
        ("ablation", "--depth", "20", "--images", "20", "--draws", "1"),
    ],
)
def test_a_report_states_the_command_that_repeats_it(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
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


def test_folders_of_the_same_relative_name_are_different_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their networks do not share run directories, and a run states where its images are."""
    short = ("--set", "iterations=1", "--set", "batch_size=8", "--image-size", "16")
    options = ("--depths", "20,32", "--seeds", "0", "--runs", str(tmp_path / "runs"))
    for first, place in ((0, tmp_path / "one"), (100, tmp_path / "two")):
        files = numbered("cat", 12, first=first) | numbered("dog", 12, first=first + 50)
        put(place / "pets", files)
        monkeypatch.chdir(place)
        code, output = run("degradation", "--data", "pets", *short, *options)
        assert code == 0, output
    sources = {Run.open(path).config.data for path in (tmp_path / "runs").glob("*-seed0-*")}
    assert sources == {(str(tmp_path / "one" / "pets"),), (str(tmp_path / "two" / "pets"),)}


def test_ablation_can_be_called_by_its_former_name() -> None:
    """The former name is not listed in the help."""
    code, output = run("lesions", "--help")
    assert code == 0
    assert "--draws" in output
    assert "lesions" not in run("--help")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("degradation", *LENGTH, "--depths", "20,20"), "'20,20'"),
        (("degradation", *LENGTH, "--depths", "20,many"), "'many'"),
        (("degradation", *LENGTH, "--depths", "20,21"), "plain21"),
        (("degradation", *LENGTH, "--depths", "18,20"), "plain18"),
        (("degradation", *LENGTH, "--depths", "20"), "--depths"),
        (("degradation", *LENGTH, "--set", "mixing.mixup=0.2"), "mixing.mixup=0"),
        (("identity", *LENGTH, "--depth", "18", "--deeper", "34"), "--depth"),
        (("identity", *LENGTH, "--depth", "20", "--deeper", "21"), "plain21"),
        (("identity", *LENGTH, "--depth", "32", "--deeper", "20"), "--deeper"),
        (("gradients", *LENGTH, "--depths", "21,32"), "plain21"),
        (("gradients", *LENGTH, "--grid", "10"), "10 must be odd"),
        (("ablation", *LENGTH, "--depth", "21"), "plain21"),
        (("shortcuts", *LENGTH, "--depth", "34"), "resnet34-b"),
        (("degradation", "--depths", "20"), "--data"),
        (("degradation", "--data", "no-such-folder"), "no-such-folder"),
        (("degradation", *LENGTH, "--seeds", "-1"), "-1"),
        (("degradation", *LENGTH, "--recipe", "nobody"), "nobody"),
        (("ablation", *LENGTH, "--depth", "50"), "plain50"),
        (("ablation", *LENGTH, "--draws", "0"), "--draws"),
        (("responses", *LENGTH, "--images", "0"), "--images"),
        (("nothing", *LENGTH), "nothing"),
    ],
)
def test_invalid_values_are_rejected_before_any_training(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    """Exit code 1 or 2 and one message that names the value; nothing is written."""
    options = ("--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"))
    code, output = run(*words, *(options if words[0] != "nothing" else ()))
    assert code in {1, 2}
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()
