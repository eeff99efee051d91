"""Measurements of a trial or an earlier start are reused only if they are still valid."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from colour_model import MODEL, publish, publish_deviating

from model_store import golden
from model_store.errors import DecodeProofError, NumericsProofError
from model_store.session import SessionOptions
from model_store.store import ModelStore
from service.engine import measurement_cache
from service.engine.measurement_cache import FOLDER, MeasurementCache, measurement_key
from service.engine.options import EngineOptions
from service.engine.warm_model import Measurement, load_measured, load_warm_model

SLOW_SECONDS = 1e6


@pytest.mark.parametrize(("threads", "taken_over"), [(1, True), (2, False)])
def test_only_cpu_times_of_another_process_are_taken_over(
    store: ModelStore, threads: int, taken_over: bool
) -> None:
    """Wall-clock times of a process with a lower priority are too long."""
    publish(store)
    measured = Measurement(
        precision="fp32",
        note=None,
        left_out={},
        milliseconds={},
        seconds={1: SLOW_SECONDS},
        warm_up_seconds=1,
    )
    options = EngineOptions(SessionOptions(intra_op_num_threads=threads), max_batch_size=8)
    with store.open(MODEL, 1) as version:
        model = load_measured(version, options, measured)
    assert (model.seconds == {1: SLOW_SECONDS}) is taken_over
    assert taken_over or max(model.seconds.values()) < SLOW_SECONDS


def kept(cache: MeasurementCache) -> list[Path]:
    folder = cache.root / FOLDER
    return sorted(folder.iterdir()) if folder.exists() else []


def new_options(cache: MeasurementCache, **session: Any) -> EngineOptions:
    return EngineOptions(SessionOptions(**session), max_batch_size=8, measurements=cache)


def test_next_start_reuses_measurements(store: ModelStore, tmp_path: Path) -> None:
    """The golden images are decoded again, and the logits are compared again."""
    publish(store)
    cache = MeasurementCache(tmp_path / "cache")
    with store.open(MODEL, 1) as version:
        first = load_warm_model(version, new_options(cache))
        (path,) = kept(cache)
        again = load_warm_model(version, new_options(cache))
        assert again.seconds == first.seconds
        slow = Measurement.of(first).model_copy(update={"seconds": {1: SLOW_SECONDS}})
        path.write_text(slow.model_dump_json())
        assert load_warm_model(version, new_options(cache)).seconds == {1: SLOW_SECONDS}


def test_wall_clock_times_are_not_kept(store: ModelStore, tmp_path: Path) -> None:
    """Other processes may have slowed the runs down."""
    publish(store)
    cache = MeasurementCache(tmp_path / "cache")
    with store.open(MODEL, 1) as version:
        load_warm_model(version, new_options(cache, intra_op_num_threads=2))
    assert not kept(cache)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'{"precision": "int8"}', "another precision", "no times"],
    ids=["empty", "no fields", "incomplete", "another precision", "no times"],
)
def test_useless_measurement_is_replaced(
    store: ModelStore, tmp_path: Path, content: bytes | str
) -> None:
    """The file is damaged, or names a variant or size that the version does not have."""
    publish(store)
    cache = MeasurementCache(tmp_path / "cache")
    changes = {"another precision": {"precision": "int8"}, "no times": {"seconds": {}}}
    with store.open(MODEL, 1) as version:
        first = load_warm_model(version, new_options(cache))
        (path,) = kept(cache)
        if isinstance(content, str):
            changed = Measurement.of(first).model_copy(update=changes[content])
            content = changed.model_dump_json().encode()
        path.write_bytes(content)
        assert load_warm_model(version, new_options(cache)).seconds.keys() == first.seconds.keys()
        assert path.read_bytes() != content


def test_measurement_replaces_no_proof(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that no longer answers as in training is rejected, although it was measured."""
    publish(store)
    cache = MeasurementCache(tmp_path / "cache")
    with store.open(MODEL, 1) as version:
        load_warm_model(version, new_options(cache))
        for name, error in (
            ("check_decode", DecodeProofError),
            ("prove_numerics", NumericsProofError),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(golden, name, Mock(side_effect=error("it differs")))
                with pytest.raises(error):
                    load_warm_model(version, new_options(cache))


def test_key_covers_what_times_depend_on(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version, the precision, the batch size, the session's options and the CPU."""
    publish(store)
    publish_deviating(store)
    options = EngineOptions(SessionOptions())
    others = [
        replace(options, precision="fp32"),
        replace(options, max_batch_size=4),
        replace(options, session=SessionOptions(allow_spinning=True)),
        replace(options, session=SessionOptions(intra_op_num_threads=2)),
    ]
    with store.open(MODEL, 1) as first, store.open(MODEL, 2) as second:
        keys = [measurement_key(first, each) for each in (options, *others)]
        keys.append(measurement_key(second, options))
        monkeypatch.setattr(measurement_cache, "cpu_description", lambda: "another CPU")
        keys.append(measurement_key(first, options))
        assert measurement_key(first, replace(options, instances=3)) == keys[-1]
    assert len(set(keys)) == len(keys)


def test_unusable_directory_keeps_nothing(store: ModelStore, tmp_path: Path) -> None:
    """The version is measured at each start."""
    publish(store)
    (tmp_path / "cache").write_text("a file")
    cache = MeasurementCache(tmp_path / "cache")
    with store.open(MODEL, 1) as version:
        for _ in range(2):
            assert load_warm_model(version, new_options(cache)).seconds
