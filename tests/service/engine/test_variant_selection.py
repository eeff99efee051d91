"""Selection of the variant that serves, and the reported reasons."""

from collections.abc import Mapping
from pathlib import Path

import httpx
import numpy as np
import pytest
from colour_model import MODEL, SIZE, WEIGHTS, make_store, plain, publish
from server_process import running
from tiny_model import tiny_model_bytes

from model_store.errors import NumericsProofError
from model_store.graph_cache import FOLDER, GraphCache
from model_store.manifest import Check, Precision, Variant
from model_store.session import Session, SessionOptions
from model_store.store import ModelStore
from model_store.version import Version
from service.engine.options import EngineOptions
from service.engine.variant_selection import (
    SelectedVariant,
    fastest_precision,
    load_proven,
    select_variant,
)
from service.settings import RequestedPrecision
from service.startup_text import describe_startup
from service.versions.reconciler import reconcile
from service.versions.registry import Registry

INT8 = Variant(precision="int8", file="model.int8.onnx", tolerance=0.05)
FP16 = Variant(precision="fp16", file="model.fp16.onnx", tolerance=0.05)
FAILED = Check(check="top1_loss", passed=False, value=2.0, threshold=0.5, comparison="at_most")
NEAR = (WEIGHTS + 1e-5).astype(np.float32)
FAR = WEIGHTS[::-1].copy()


def model_file(weights: np.ndarray) -> bytes:
    return tiny_model_bytes(SIZE, SIZE, weights)


def fake_measure(**seconds: float) -> object:
    """A measurement that returns these times."""

    def measure(sessions: Mapping[str, Session], _: Version) -> Mapping[str, np.ndarray]:
        return {name: np.array([[seconds[name], 8 * seconds[name]]]) for name in sessions}

    return measure


def select(
    store: ModelStore, requested: RequestedPrecision, number: int = 1, **seconds: float
) -> SelectedVariant:
    with store.open(MODEL, number) as version:
        measured = fake_measure(**seconds)  # type: ignore[arg-type]
        return select_variant(version, requested, SessionOptions(), measured)


@pytest.mark.parametrize(("int8", "expected"), [(0.5, "int8"), (0.97, "fp32"), (3.0, "fp32")])
def test_auto_selects_the_fastest_or_fp32_without_much_gain(
    store: ModelStore, int8: float, expected: Precision
) -> None:
    """A gain of three per cent does not justify different answers."""
    publish(store, others={INT8: model_file(NEAR)})
    selected = select(store, "auto", fp32=1.0, int8=int8)
    assert selected.precision == expected
    assert selected.milliseconds == {"fp32": (1000.0, 8000.0), "int8": (int8 * 1e3, int8 * 8e3)}


def test_speed_up_counts_both_batch_sizes_equally() -> None:
    """Half the time for one image counts as much as for eight; the best round counts."""
    fp32 = np.array([[9.0, 9.0], [1.0, 8.0]])
    assert fastest_precision({"fp32": fp32, "int8": np.array([[0.5, 32.0]])}, "fp32") == "fp32"
    assert fastest_precision({"fp32": fp32, "int8": np.array([[0.5, 8.0]])}, "fp32") == "int8"


def test_session_belongs_to_the_selected_variant(store: ModelStore) -> None:
    """Its file runs, not only its name is reported."""
    publish(store, others={INT8: model_file(NEAR)})
    images = np.full((1, SIZE, SIZE, 3), 255, np.uint8)
    fp32, int8 = (select(store, requested).session.run(images) for requested in ("fp32", "int8"))
    assert np.allclose(int8 - fp32, 3 * 255e-5, atol=1e-4)


def test_auto_leaves_out_variants_that_fail_their_proof(
    store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A fast variant outside its tolerance does not serve, and the log has the reason."""
    publish(store, others={INT8: model_file(FAR)})
    selected = select(store, "auto", fp32=1.0, int8=0.1)
    assert selected.precision == "fp32"
    assert "int8" in selected.left_out
    assert "precision=int8" in caplog.text


def test_auto_leaves_out_broken_files(store: ModelStore) -> None:
    """The version still serves."""
    publish(store, others={INT8: b"not a model"})
    selected = select(store, "auto")
    assert selected.precision == "fp32"
    assert "int8" in selected.left_out


def test_failed_gates_and_missing_gpus_exclude_a_variant_unloaded(store: ModelStore) -> None:
    """Such variants are not even loaded."""
    publish(
        store,
        others={INT8.model_copy(update={"gate": (FAILED,)}): b"not loaded", FP16: b"not loaded"},
    )
    selected = select(store, "auto")
    assert (selected.precision, selected.note) == ("fp32", None)
    assert selected.left_out == {"int8": "its gate top1_loss failed", "fp16": "it needs a GPU"}


def test_waived_gate_counts_as_passed(store: ModelStore) -> None:
    """The reason of the waiver is in the manifest."""
    waived = FAILED.model_copy(update={"waived": "speed counts here"})
    publish(store, others={INT8.model_copy(update={"gate": (waived,)}): model_file(NEAR)})
    assert select(store, "auto", fp32=1.0, int8=0.5).precision == "int8"


@pytest.mark.parametrize(
    "others",
    [{}, {INT8: model_file(FAR)}],
    ids=["missing", "deviating"],
)
def test_named_precision_that_cannot_serve_is_replaced_by_fp32(
    store: ModelStore, others: dict[Variant, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """The log and the note have the reason."""
    publish(store, others=others)
    selected = select(store, "int8")
    assert selected.precision == "fp32"
    assert selected.note
    assert "precision=fp32 requested=int8" in caplog.text


def test_fp32_must_hold_whatever_is_requested(store: ModelStore) -> None:
    """A version whose fp32 proof fails does not serve in INT8 either."""
    publish(store, weights=FAR, others={INT8: model_file(WEIGHTS)})
    for requested in ("auto", "int8"):
        with pytest.raises(NumericsProofError):
            select(store, requested)  # type: ignore[arg-type]


def test_real_measurement_selects_one_variant(store: ModelStore) -> None:
    """By default the variants are timed in turn."""
    publish(store, others={INT8: model_file(NEAR)})
    with store.open(MODEL, 1) as version:
        selected = select_variant(version, "auto", SessionOptions())
    assert selected.precision in {"fp32", "int8"}
    assert set(selected.milliseconds) == {"fp32", "int8"}
    assert all(value > 0 for values in selected.milliseconds.values() for value in values)


def test_service_uses_the_precision_setting_and_reports_it(tmp_path: Path) -> None:
    """The model routes report which variant serves and why others do not."""
    store = make_store(tmp_path / "store")
    publish(store, others={INT8: model_file(NEAR), FP16: b"not loaded"})
    publish(store, "plain")
    with (
        running("--store", store.root, "--no-builtin", "--precision", "int8") as server,
        server.announced().client() as client,
    ):
        detail = client.get(f"/v1/models/{MODEL}").json()
        assert [(line["precision"], line["serving"]) for line in detail["variants"]] == [
            ("fp32", False),
            ("int8", True),
            ("fp16", False),
        ]
        assert (detail["precision"], detail["precision_note"]) == ("int8", None)
        other = client.get("/v1/models/plain").json()
        assert (other["precision"], other["precision_note"]) == (
            "fp32",
            "this version has no int8 variant",
        )
        assert _label(client.post(f"/v1/models/{MODEL}/predict", content=plain("cyan"))) == "cyan"


def _label(response: httpx.Response) -> str:
    return str(response.json()["results"][0]["predictions"][0]["label"])


def test_start_prints_another_precision_than_fp32(store: ModelStore) -> None:
    """The printed accuracy was measured in fp32."""
    publish(store, others={INT8: model_file(NEAR)})
    publish(store, "plain")
    registry = Registry(
        store, lambda _: EngineOptions(SessionOptions(), max_batch_size=8, precision="int8")
    )
    reconcile(registry)
    lines = describe_startup(registry, "here")
    registry.close()
    (model,) = [line for line in lines if "colours/1" in line]
    assert "int8" in model
    assert "  model  plain/1: 7 classes" in lines


def test_cached_graph_depends_on_all_files_of_a_version(store: ModelStore, tmp_path: Path) -> None:
    """A graph may keep its weights in another file."""
    cache = GraphCache(tmp_path / "cache", 10**8)
    for weights in (b"one", b"two", b"two"):
        publish(store, extra={"weights.bin": weights})
    for number in (1, 2, 3):
        with store.open(MODEL, number) as version:
            load_proven(version, version.variant("fp32"), SessionOptions(graphs=cache))
    assert len([entry for entry in (tmp_path / "cache" / FOLDER).iterdir() if entry.is_dir()]) == 2
