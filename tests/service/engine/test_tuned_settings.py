"""Tuned settings: they are used for the files, machine and library that they were measured with."""

import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from colour_model import MODEL, SIZE, WEIGHTS, publish
from tiny_model import tiny_model_bytes

from model_store.manifest import Precision, Variant, now
from model_store.providers import CUDA
from model_store.session import SessionOptions
from model_store.store import ModelStore
from service.engine.loaded_version import LoadedVersion
from service.engine.options import EngineOptions
from service.engine.tuned_settings import (
    MAX_FILE_BYTES,
    TunedPerformance,
    TunedSettings,
    TunedSettingsLookup,
    TuningKey,
    find_tuned_settings,
    write_tuned_settings,
)

CPUS = 2
MEASURED = TunedPerformance(
    images_per_second=100.0, p50_ms=1.0, p99_ms=2.0, in_flight=8, alone_ms=0.5
)


def write_settings(store: ModelStore, cache: Path, precision: Precision = "fp32") -> Path:
    """Write settings that differ from every default."""
    with store.open(MODEL, 1) as version:
        tuned = TunedSettings(
            key=TuningKey.of(version, CPUS),
            mode="latency",
            instances=3,
            intra_op_num_threads=2,
            max_batch_size=5,
            precision=precision,
            measured=MEASURED,
            measured_at=now(),
        )
    return write_tuned_settings(cache, tuned)


def find_settings(
    store: ModelStore, cache: Path, number: int = 1, cpus: int = CPUS
) -> TunedSettings | None:
    with store.open(MODEL, number) as version:
        return find_tuned_settings(cache, version, cpus)


def test_written_settings_are_found(store: ModelStore, tmp_path: Path) -> None:
    """Settings that were written for this version are found, and replace earlier ones."""
    publish(store)
    assert find_settings(store, tmp_path / "cache") is None
    for _ in range(2):
        write_settings(store, tmp_path / "cache")
    tuned = find_settings(store, tmp_path / "cache")
    assert tuned
    assert (
        tuned.instances,
        tuned.intra_op_num_threads,
        tuned.max_batch_size,
        tuned.measured,
    ) == (3, 2, 5, MEASURED)
    assert os.listdir(tmp_path / "cache/tuning") == [f"{MODEL}.json"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpu", "a 6502"),
        ("cpus", 64),
        ("onnxruntime", "0.1"),
        ("files", {"fp32": "0" * 64}),
        ("model", "other"),
    ],
)
def test_settings_measured_elsewhere_are_ignored_with_a_warning(
    store: ModelStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    field: str,
    value: object,
) -> None:
    """The warning names the field of the key that differs."""
    publish(store)
    path = write_settings(store, tmp_path / "cache")
    document = json.loads(path.read_bytes())
    document["key"][field] = value
    path.write_text(json.dumps(document))
    assert find_settings(store, tmp_path / "cache") is None
    assert re.search(rf"ignored model={MODEL} .*different {field};", caplog.text)


def test_settings_hold_for_another_version_with_the_same_files_only(
    store: ModelStore, tmp_path: Path
) -> None:
    """A version with other weights, or with one more precision, has no tuned settings."""
    publish(store)
    write_settings(store, tmp_path / "cache")
    same, others = publish(store), publish(store, weights=2 * WEIGHTS, golden_weights=2 * WEIGHTS)
    int8 = Variant(precision="int8", file="model.int8.onnx", tolerance=0.05)
    more = publish(store, others={int8: tiny_model_bytes(SIZE, SIZE, WEIGHTS)})
    kept = [
        find_settings(store, tmp_path / "cache", number) is not None
        for number in (same, others, more)
    ]
    assert kept == [True, False, False]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"instances": 0}', "\0\0"])
def test_damaged_file_is_ignored_with_a_warning(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    """Whatever the file contains, the service starts."""
    publish(store)
    write_settings(store, tmp_path / "cache").write_text(content)
    assert find_settings(store, tmp_path / "cache") is None
    assert f"ignored model={MODEL}" in caplog.text


def test_too_many_threads_are_ignored(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each number may be in range while their product exceeds what any machine has."""
    publish(store)
    path = write_settings(store, tmp_path / "cache")
    path.write_text(
        json.dumps(
            json.loads(path.read_bytes()) | {"instances": 4096, "intra_op_num_threads": 4096}
        )
    )
    assert find_settings(store, tmp_path / "cache") is None
    assert "instances x intra_op_num_threads" in caplog.text


def test_huge_file_is_not_read(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At most `MAX_FILE_BYTES` of it are read into memory."""
    publish(store)
    path = write_settings(store, tmp_path / "cache")
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    assert find_settings(store, tmp_path / "cache") is None
    assert str(MAX_FILE_BYTES) in caplog.text


@pytest.mark.parametrize("which", ["cache", "cache/tuning"])
def test_settings_that_others_could_have_written_are_ignored(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    """The file decides how many threads the service starts, so only its owner may write it."""
    publish(store)
    write_settings(store, tmp_path / "cache")
    (tmp_path / which).chmod(0o777)
    assert find_settings(store, tmp_path / "cache") is None
    assert f"ignored model={MODEL}" in caplog.text


def test_unreadable_file_is_ignored_with_a_warning(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory in place of the file is such a case."""
    publish(store)
    (tmp_path / "cache/tuning" / f"{MODEL}.json").mkdir(parents=True)
    assert find_settings(store, tmp_path / "cache") is None
    assert f"ignored model={MODEL}" in caplog.text


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
def test_settings_of_a_person_win(
    store: ModelStore, tmp_path: Path, fixed: tuple[str, ...], expected: dict[str, object]
) -> None:
    """Instances and threads were measured together, so fixing one of them fixes both."""
    publish(store)
    write_settings(store, tmp_path / "cache")
    with store.open(MODEL, 1) as version:
        assert TunedSettingsLookup(tmp_path / "cache", CPUS, fixed).values_for(version) == expected


def test_loaded_version_uses_tuned_settings(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Instances, threads and batch size are used and logged, but not on a GPU."""
    caplog.set_level(logging.INFO)
    publish(store)
    write_settings(store, tmp_path / "cache")
    options = EngineOptions(
        max_batch_size=32,
        max_queue_delay_seconds=0.0,
        instances=1,
        session=SessionOptions(),
        tuned_settings=TunedSettingsLookup(tmp_path / "cache", CPUS),
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
    assert "instances=3 intra_op_num_threads=2 max_batch_size=5 precision=fp32" in caplog.text


def test_tuned_instances_are_divided_among_workers(store: ModelStore, tmp_path: Path) -> None:
    """The settings were measured with all CPUs; each worker has one of two."""
    publish(store)
    write_settings(store, tmp_path / "cache")
    with store.open(MODEL, 1) as version:
        values = TunedSettingsLookup(tmp_path / "cache", CPUS, workers=2).values_for(version)
    assert values["instances"] == 2
    assert values["intra_op_num_threads"] == 1
    assert values["max_batch_size"] == 5
