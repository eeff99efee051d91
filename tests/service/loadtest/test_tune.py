"""`python -m service tune` on a built-in model, and a real service that takes what it chose."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from colour_model import MODEL, publish
from server_process import running

from model_store.store import ModelStore
from service.engine.tuned_settings import TunedSettings
from service.loadtest.tune_command import tune

DIGITS = "digits-resnet20"


def run_tune(store: ModelStore, cache: Path, *arguments: object) -> Result:
    """The command with times so short that its figures mean nothing."""
    given = ["--seconds", "0.01", "--store", store.root, "--cache", cache, *arguments]
    return CliRunner().invoke(tune, [str(argument) for argument in given])


def test_choice_is_made_drawn_and_served(store: ModelStore, tmp_path: Path) -> None:
    """The built-in digits: a table, a picture, a file, and a service that runs by it until a person says otherwise."""
    cache = tmp_path / "cache"
    done = run_tune(store, cache, DIGITS, "--max-batch-size", 2)
    assert done.exit_code == 0, done.output
    assert re.search(r"fp32 .* chosen", done.stdout)
    choice = TunedSettings.model_validate_json((cache / "tuning" / f"{DIGITS}.json").read_bytes())
    assert choice.max_batch_size in {1, 2}
    assert choice.measured.images_per_second > 0
    assert (cache / "tuning" / f"{DIGITS}.svg").read_text().startswith("<?xml")
    assert str(cache / "tuning" / f"{DIGITS}.svg") in done.stdout
    with running("--store", store.root, "--cache", cache) as server:
        assert server.announced().stderr.wait_for(rf"{DIGITS}/1 is tuned: {choice}$")
        assert "cifar10/1 is tuned" not in server.stderr.text
    with running(
        "--store", store.root, "--cache", cache, "--max-batch-size", 7, "--instances", 1
    ) as server:
        assert server.announced().stderr.wait_for(rf"{DIGITS}/1 is tuned: precision fp32$")


def test_p99_that_nothing_holds_writes_nothing(store: ModelStore, tmp_path: Path) -> None:
    """The table shows how near it was, and what was chosen before stays."""
    publish(store)
    done = run_tune(
        store, tmp_path / "cache", MODEL, "--p99", 1e-6, "--picture", tmp_path / "curve.png"
    )
    assert done.exit_code == 1
    assert "nothing here holds a p99 of 1e-06 ms under load; nothing was written" in done.stderr
    assert "images/s" in done.stdout
    assert list((tmp_path / "cache/tuning").iterdir()) == []


def test_cache_that_others_can_write_is_refused_before_measuring(
    store: ModelStore, tmp_path: Path
) -> None:
    """What lies there is believed by the service, so it must be this user's alone."""
    publish(store)
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    done = run_tune(store, cache, MODEL)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: others can write to {cache}")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nobody"], 1, "there is no model 'nobody'"),
        ([f"{MODEL}/9"], 1, "has no version 9"),
        ([f"{MODEL}/nobody"], 1, "no alias 'nobody'"),
        ([MODEL, "--cache", "/proc/cache"], 1, "/proc/cache"),
        ([MODEL, "--store", "/nowhere"], 1, "/nowhere can not be read"),
        ([MODEL, "--p99", "0"], 2, "--p99"),
        ([MODEL, "--seconds", "inf"], 2, "--seconds"),
        ([MODEL, "--accuracy-budget", "-1"], 2, "--accuracy-budget"),
        ([MODEL, "--picture", "curve.txt"], 2, "must end in"),
        ([], 2, "MODEL"),
    ],
)
def test_what_can_not_be_tuned_is_said(
    store: ModelStore, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    """A model, version, directory or number that is not there ends in a line that names it."""
    publish(store)
    done = run_tune(store, tmp_path / "cache", *arguments)
    assert done.exit_code == code, done.output
    assert said in done.stderr
    assert isinstance(done.exception, SystemExit)
