"""Requests: what a run is made from, wherever it is resumed, and what a folder's name decides."""

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from pictures import numbered, put

from model_store.store import ModelStore
from training.__main__ import main
from training.errors import DataError, InterruptedRunError, RunError
from training.run.data import open_run_data
from training.run.directory import Run
from training.run.request import RunRequest, move_data, start_run
from training.run.weights import LAST_WEIGHTS
from training.steps.train import train

FILES = numbered("cat", 12) | numbered("dog", 12, first=100)
QUICK = ("iterations=3", "batch_size=8")


def start(place: Path, data: str, **values: object) -> Run:
    """Start a short run in the current directory."""
    request = RunRequest((data,), changes=QUICK, image_size=(16, 16), **values)
    return start_run(request, place / "runs", ModelStore(place / "store"))[0]


@pytest.mark.parametrize("folder", ["photographs", "cifar10", "digits", "finetune"])
def test_the_name_of_a_folder_chooses_no_recipe(folder: str) -> None:
    """Only a known data set has its own recipe."""
    assert RunRequest((f"/data/{folder}",)).recipe_name == "modern"
    assert RunRequest((f"/data/{folder}",), start="cifar10").recipe_name == "finetune"
    assert RunRequest(("digits",)).recipe_name == "digits"
    assert RunRequest((f"/data/{folder}",), recipe="fast").recipe_name == "fast"


def test_a_folder_called_like_a_recipe_is_fine_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "photographs", FILES)
    monkeypatch.chdir(tmp_path)
    assert start(tmp_path, "photographs").config.recipe_name == "modern"


def test_a_known_name_that_is_a_folder_too_starts_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "digits", FILES)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"\./digits"):
        start(tmp_path, "digits")
    assert not (tmp_path / "runs").exists()
    run = start(tmp_path, "./digits")
    assert run.config.data == (str(tmp_path / "digits"),)
    assert "--data ./digits" in run.config.command


def test_a_run_on_relative_paths_resumes_in_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "pets", FILES | {"mine.png": 5})
    (tmp_path / "pets" / "mine.png").rename(tmp_path / "mine.png")
    monkeypatch.chdir(tmp_path)
    run = start(tmp_path, "pets", golden_images=("mine.png",))
    with pytest.raises(InterruptedRunError):
        train(run, open_run_data(run), interrupted=lambda: True)
    monkeypatch.chdir("/")
    again = Run.open(run.path)
    assert Path(again.config.golden_images[0]).exists()
    train(again, open_run_data(again))
    assert again.has(LAST_WEIGHTS)
    assert str(tmp_path) not in again.config.command


def test_data_that_has_moved_is_named_and_can_be_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a training. Other images in its place are refused."""
    put(tmp_path / "pets", FILES)
    run = start(tmp_path, str(tmp_path / "pets"))
    with pytest.raises(InterruptedRunError):
        train(run, open_run_data(run), interrupted=lambda: True)
    (tmp_path / "pets").rename(tmp_path / "animals")
    with pytest.raises(RunError, match=r"began with .*/pets, .*resume .* --data NEW"):
        open_run_data(run)
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "others", numbered("cat", 12, first=50) | numbered("dog", 12, first=200))
    with pytest.raises(RunError, match="/others"):
        open_run_data(move_data(run, ["others"], None))
    assert Run.open(run.path).config == run.config, "the wrong folder was written"
    words = ["resume", str(run.path), "--data", "animals", "--store", str(tmp_path / "store")]
    result = CliRunner().invoke(main, [*words, *shlex.split("--waive accuracy_floor=short")])
    moved = Run.open(run.path)
    assert moved.config.data == (str(tmp_path / "animals"),)
    assert moved.has(LAST_WEIGHTS), result.output


def test_the_advice_for_moved_data_keeps_what_is_still_there(tmp_path: Path) -> None:
    """It can be pasted: each missing place is NEW, and names with spaces are quoted."""
    for name in ("my pets", "more"):
        put(tmp_path / name, FILES)
    (tmp_path / "files").mkdir()
    run = start(tmp_path, str(tmp_path / "my pets"), model="pets")
    sources = ("digits", str(tmp_path / "my pets"), str(tmp_path / "more"))
    run = run.with_data(sources, str(tmp_path / "files"))
    (tmp_path / "more").rename(tmp_path / "gone")
    (tmp_path / "files").rmdir()
    with pytest.raises(RunError) as raised:
        open_run_data(run)
    words = shlex.split(str(raised.value).rpartition(": ")[2])
    assert words[:5] == ["python", "-m", "training", "resume", str(run.path)]
    data = ["--data", "digits", "--data", sources[1], "--data", "NEW"]
    assert words[5:] == [*data, "--data-dir", "NEW"]


def test_a_missing_data_dir_alone_needs_no_other_data(tmp_path: Path) -> None:
    put(tmp_path / "pets", FILES)
    run = start(tmp_path, str(tmp_path / "pets"))
    run = run.with_data(run.config.data, str(tmp_path / "gone"))
    with pytest.raises(RunError) as raised:
        open_run_data(run)
    assert shlex.split(str(raised.value))[-3:] == [str(run.path), "--data-dir", "NEW"]


def test_the_next_command_keeps_the_directories_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published version states names only."""
    put(tmp_path / "deep" / "pets", FILES)
    monkeypatch.chdir(tmp_path)
    short = "--arch resnet20 --image-size 16 --set batch_size=8 --set epochs=2 --steps 10"
    result = CliRunner().invoke(main, ["find-lr", "--data", "deep/pets", *short.split()])
    assert result.exit_code == 0, result.output
    words = shlex.split(result.output.rpartition("next:")[2].replace("\\\n", " "))
    assert words[:4] == ["python", "-m", "training", "run"]
    assert words[words.index("--data") + 1] == str(tmp_path / "deep" / "pets")
    request = RunRequest(("deep/pets",), precision="fp32", data_dir=tmp_path).resolved()
    config = start_run(request, tmp_path / "runs", ModelStore(tmp_path / "store"))[0].config
    words = config.command_words(paths=True)
    assert words[words.index("--data-dir") + 1] == str(tmp_path)
    assert words[words.index("--precision") + 1] == "fp32"
    assert str(tmp_path) not in config.command
