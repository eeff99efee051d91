"""`python -m service tune`, and a server that uses its result."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from colour_model import MODEL, publish
from server_process import running

from model_store.store import ModelStore
from service.engine.tuned_settings import TunedSettings
from service.host.cpu_limit import cpu_limit
from service.loadtest import worker_measurement
from service.loadtest.tune_command import largest_difference, tune
from service.loadtest.worker_measurement import (
    WorkerMeasurement,
    choose_workers,
    list_worker_counts,
)

DIGITS = "digits-resnet20"


def run_tune(store: ModelStore, cache: Path, *arguments: object) -> Result:
    """Run the command with measurements that are too short to mean anything."""
    short = ("--seconds", "0.01", "--max-difference", 1e6)
    given = [*short, "--store", store.root, "--cache", cache, *arguments]
    return CliRunner().invoke(tune, [str(argument) for argument in given])


@pytest.mark.slow
def test_tuned_settings_are_written_drawn_and_served(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service uses the tuned settings unless a person has set others."""
    monkeypatch.setattr(worker_measurement, "ROUNDS", 1)
    cache = tmp_path / "cache"
    done = run_tune(store, cache, DIGITS, "--max-batch-size", 2)
    assert done.exit_code == 0, done.output
    assert re.search(r"(fp32|int8) .* chosen", done.stdout)
    tuned = TunedSettings.model_validate_json((cache / "tuning" / f"{DIGITS}.json").read_bytes())
    assert tuned.max_batch_size in {1, 2}
    assert tuned.measured.images_per_second > 0
    assert (cache / "tuning" / f"{DIGITS}.svg").read_text().startswith("<?xml")
    assert str(cache / "tuning" / f"{DIGITS}.svg") in done.stdout
    carried = re.findall(
        r"^(\d+) workers?: ([\d,.]+) images/s over HTTP", done.stdout, re.MULTILINE
    )
    assert [int(workers) for workers, _ in carried] == list_worker_counts(cpu_limit())
    assert all(float(speed.replace(",", "")) > 0 for _, speed in carried)
    with running("--store", store.root, "--cache", cache) as server:
        assert server.announced().stderr.wait_for(rf"version={DIGITS}/1 {tuned}$")
        assert "tuned settings used version=cifar10/1" not in server.stderr.text
    with running(
        "--store", store.root, "--cache", cache, "--max-batch-size", 7, "--instances", 1
    ) as server:
        assert server.announced().stderr.wait_for(
            rf"tuned settings used version={DIGITS}/1 precision={tuned.precision}$"
        )


def test_fewest_workers_with_nearly_the_best_throughput_are_chosen() -> None:
    measured = [
        WorkerMeasurement(workers, speed, 1.0, 2.0)
        for workers, speed in ((1, 80.0), (2, 99.0), (4, 100.0))
    ]
    assert choose_workers(measured).workers == 2
    assert list_worker_counts(6) == [1, 2, 4, 6]
    assert list_worker_counts(1) == [1]


def test_one_worker_is_singular() -> None:
    first_words = [str(WorkerMeasurement(workers, 1.0, 1.0, 2.0)) for workers in (1, 2, 11)]
    assert [text.partition(":")[0] for text in first_words] == [
        "1 worker",
        "2 workers",
        "11 workers",
    ]


def test_a_choice_that_means_little_is_not_stored(store: ModelStore, tmp_path: Path) -> None:
    """Two measurements on a real machine are never equal."""
    publish(store)
    done = run_tune(store, tmp_path / "cache", MODEL, "--max-difference", 0)
    assert done.exit_code == 1
    assert "images/s" in done.stdout
    assert "--max-difference" in done.stderr
    assert list((tmp_path / "cache/tuning").iterdir()) == []


def test_the_difference_is_that_of_the_same_setting() -> None:
    assert largest_difference([[10.0, 12.0], [100.0], [50.0, 45.0]]) == pytest.approx(20)


def test_p99_that_no_setting_meets_writes_nothing(store: ModelStore, tmp_path: Path) -> None:
    """The table is printed all the same."""
    publish(store)
    done = run_tune(
        store, tmp_path / "cache", MODEL, "--p99", 1e-6, "--picture", tmp_path / "curve.png"
    )
    assert done.exit_code == 1
    assert "1e-06 ms" in done.stderr
    assert "images/s" in done.stdout
    assert list((tmp_path / "cache/tuning").iterdir()) == []


def test_cache_that_others_can_write_is_rejected_before_measuring(
    store: ModelStore, tmp_path: Path
) -> None:
    """The service trusts the files in it, so only their owner may write there."""
    publish(store)
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    done = run_tune(store, cache, MODEL)
    assert (done.exit_code, done.stdout) == (1, "")
    assert str(cache) in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["nobody"], 1, "nobody"),
        ([f"{MODEL}/9"], 1, "9"),
        ([f"{MODEL}/nobody"], 1, "nobody"),
        ([MODEL, "--cache", "/proc/cache"], 1, "/proc/cache"),
        ([MODEL, "--store", "/nowhere"], 1, "/nowhere"),
        ([MODEL, "--p99", "0"], 2, "--p99"),
        ([MODEL, "--seconds", "inf"], 2, "--seconds"),
        ([MODEL, "--accuracy-budget", "-1"], 2, "--accuracy-budget"),
        ([MODEL, "--picture", "curve.txt"], 2, "curve.txt"),
        ([], 2, "MODEL"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(
    store: ModelStore, tmp_path: Path, arguments: list[str], code: int, named: str
) -> None:
    """Unknown models have exit code 1, a wrong command line has 2."""
    publish(store)
    done = run_tune(store, tmp_path / "cache", *arguments)
    assert done.exit_code == code, done.output
    assert named in done.stderr
    assert isinstance(done.exception, SystemExit)
