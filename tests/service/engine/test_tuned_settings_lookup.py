"""What `tune` chose, as the service finds it: for the very files, machine and library that it was measured with."""

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
from colour_model import MODEL, SIZE, WEIGHTS, publish
from tiny_model import tiny_model_bytes

from model_store.manifest import Precision, Variant, now
from model_store.providers import CUDA
from model_store.session import SessionOptions
from model_store.store import ModelStore
from service.engine.loaded_version import EngineOptions, LoadedVersion
from service.engine.tuned_settings import (
    TunedPerformance,
    TunedSettings,
    TuningKey,
    write_tuned_settings,
)
from service.engine.tuned_settings_lookup import TunedSettingsLookup, find_tuned_settings

CPUS = 2
MEASURED = TunedPerformance(
    images_per_second=100.0, p50_ms=1.0, p99_ms=2.0, in_flight=8, alone_ms=0.5
)


def choose(store: ModelStore, cache: Path, precision: Precision = "fp32") -> Path:
    """A choice that differs from every default, written."""
    with store.open(MODEL, 1) as version:
        choice = TunedSettings(
            key=TuningKey.of(version, CPUS),
            mode="latency",
            instances=3,
            intra_op_num_threads=2,
            max_batch_size=5,
            precision=precision,
            measured=MEASURED,
            measured_at=now(),
        )
    return write_tuned_settings(cache, choice)


def found(
    store: ModelStore, cache: Path, number: int = 1, cpus: int = CPUS
) -> TunedSettings | None:
    with store.open(MODEL, number) as version:
        return find_tuned_settings(cache, version, cpus)


def test_choice_is_found_again(store: ModelStore, tmp_path: Path) -> None:
    """What was written for this version here comes back, and takes the place of what was written before."""
    publish(store)
    assert found(store, tmp_path / "cache") is None
    for _ in range(2):
        choose(store, tmp_path / "cache")
    choice = found(store, tmp_path / "cache")
    assert choice
    assert (
        choice.instances,
        choice.intra_op_num_threads,
        choice.max_batch_size,
        choice.measured,
    ) == (3, 2, 5, MEASURED)
    assert os.listdir(tmp_path / "cache/tuning") == [f"{MODEL}.json"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("cpu", "a 6502", "processors"),
        ("cpus", 64, "numbers of CPUs"),
        ("onnxruntime", "0.1", "versions of ONNX Runtime"),
        ("files", {"fp32": "0" * 64}, "model files"),
        ("model", "other", "models"),
    ],
)
def test_choice_made_elsewhere_is_ignored_and_said(
    store: ModelStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    field: str,
    value: object,
    said: str,
) -> None:
    """Another machine's, another library's or another file's figures say nothing here."""
    publish(store)
    path = choose(store, tmp_path / "cache")
    document = json.loads(path.read_bytes())
    document["key"][field] = value
    path.write_text(json.dumps(document))
    assert found(store, tmp_path / "cache") is None
    assert f"it was measured with other {said}; `python -m service tune {MODEL}`" in caplog.text


def test_choice_holds_for_another_version_with_the_same_files_only(
    store: ModelStore, tmp_path: Path
) -> None:
    """A version that was published again keeps its choice; one with other weights, or one more precision, must be measured."""
    publish(store)
    choose(store, tmp_path / "cache")
    same, others = publish(store), publish(store, weights=2 * WEIGHTS, golden_weights=2 * WEIGHTS)
    int8 = Variant(precision="int8", file="model.int8.onnx", tolerance=0.05)
    more = publish(store, others={int8: tiny_model_bytes(SIZE, SIZE, WEIGHTS)})
    kept = [found(store, tmp_path / "cache", number) is not None for number in (same, others, more)]
    assert kept == [True, False, False]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"instances": 0}', "\0\0"])
def test_damaged_choice_is_ignored_and_said(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    """Whatever lies there, the service starts."""
    publish(store)
    choose(store, tmp_path / "cache").write_text(content)
    assert found(store, tmp_path / "cache") is None
    assert f"what tune chose for {MODEL} is ignored" in caplog.text


def test_choice_of_countless_threads_is_ignored(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each number may be allowed and the threads of all instances together more than any machine has."""
    publish(store)
    path = choose(store, tmp_path / "cache")
    path.write_text(
        json.dumps(
            json.loads(path.read_bytes()) | {"instances": 4096, "intra_op_num_threads": 4096}
        )
    )
    assert found(store, tmp_path / "cache") is None
    assert "instances x intra_op_num_threads is more than 4096" in caplog.text


def test_file_without_end_is_not_read(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However large it is, no more than a choice can need is held in memory."""
    publish(store)
    path = choose(store, tmp_path / "cache")
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    assert found(store, tmp_path / "cache") is None
    assert "its file has more than" in caplog.text


@pytest.mark.parametrize("which", ["cache", "cache/tuning"])
def test_choice_that_others_could_have_put_there_is_not_taken(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    """It decides how many threads the service starts, so it is trusted as far as the graphs beside it."""
    publish(store)
    choose(store, tmp_path / "cache")
    (tmp_path / which).chmod(0o777)
    assert found(store, tmp_path / "cache") is None
    assert "others can write to" in caplog.text


def test_unreadable_choice_is_said(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory in its place is no choice either."""
    publish(store)
    (tmp_path / "cache/tuning" / f"{MODEL}.json").mkdir(parents=True)
    assert found(store, tmp_path / "cache") is None
    assert "can not be read" in caplog.text


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        ((), {"instances": 3, "intra_op_num_threads": 2, "max_batch_size": 5, "precision": "fp32"}),
        (
            ("max_batch_size", "host"),
            {"instances": 3, "intra_op_num_threads": 2, "precision": "fp32"},
        ),
        (("instances",), {"max_batch_size": 5, "precision": "fp32"}),
        (("intra_op_num_threads", "precision"), {"max_batch_size": 5}),
    ],
)
def test_what_a_person_has_set_wins(
    store: ModelStore, tmp_path: Path, fixed: tuple[str, ...], expected: dict[str, object]
) -> None:
    """A setting that was made stays; instances and threads were measured together, so one of them keeps the other."""
    publish(store)
    choose(store, tmp_path / "cache")
    with store.open(MODEL, 1) as version:
        assert TunedSettingsLookup(tmp_path / "cache", CPUS, fixed).values_for(version) == expected


def test_served_version_runs_as_chosen(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine is built with the chosen instances, threads and batch size, and the log says so; a GPU's is not."""
    caplog.set_level(logging.INFO)
    publish(store)
    choose(store, tmp_path / "cache")
    options = EngineOptions(
        max_batch_size=32,
        max_queue_delay_seconds=0.0,
        instances=1,
        session=SessionOptions(),
        tuning=TunedSettingsLookup(tmp_path / "cache", CPUS),
    )
    with store.open(MODEL, 1) as version:
        tuned = options.for_version(version)
        assert (tuned.instances, tuned.session.intra_op_num_threads, tuned.max_batch_size) == (
            3,
            2,
            5,
        )
        on_gpu = replace(options, session=SessionOptions(providers=(CUDA, "CPUExecutionProvider")))
        assert on_gpu.for_version(version) is on_gpu
    served = LoadedVersion(store.open(MODEL, 1), options)
    served.close()
    assert served.max_batch_size == 5
    assert (
        "is tuned: instances 3, intra_op_num_threads 2, max_batch_size 5, precision fp32"
        in caplog.text
    )
