"""Which variant of a version answers, and what is said where it is not the one that was wished for."""

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
from service.server import describe_startup
from service.settings import RequestedPrecision
from service.versions.reconciler import reconcile
from service.versions.registry import Registry

INT8 = Variant(precision="int8", file="model.int8.onnx", tolerance=0.05)
FP16 = Variant(precision="fp16", file="model.fp16.onnx", tolerance=0.05)
FAILED = Check(check="top1_loss", passed=False, value=2.0, threshold=0.5, comparison="at_most")
NEAR = (WEIGHTS + 1e-5).astype(np.float32)
FAR = WEIGHTS[::-1].copy()


def file_of(weights: np.ndarray) -> bytes:
    return tiny_model_bytes(SIZE, SIZE, weights)


def as_if(**seconds: float) -> object:
    """A measurement that found these times, whatever the machine does."""

    def measure(sessions: Mapping[str, Session], _: Version) -> Mapping[str, np.ndarray]:
        return {name: np.array([[seconds[name], 8 * seconds[name]]]) for name in sessions}

    return measure


def chosen(
    store: ModelStore, wish: RequestedPrecision, number: int = 1, **seconds: float
) -> SelectedVariant:
    with store.open(MODEL, number) as version:
        return select_variant(version, wish, SessionOptions(), as_if(**seconds))  # type: ignore[arg-type]


@pytest.mark.parametrize(("int8", "expected"), [(0.5, "int8"), (0.97, "fp32"), (3.0, "fp32")])
def test_auto_takes_the_fastest_and_fp32_where_little_is_won(
    store: ModelStore, int8: float, expected: Precision
) -> None:
    """What was measured decides; three per cent are no reason to give up the exact answers."""
    publish(store, others={INT8: file_of(NEAR)})
    choice = chosen(store, "auto", fp32=1.0, int8=int8)
    assert choice.precision == expected
    assert choice.milliseconds == {"fp32": (1000.0, 8000.0), "int8": (int8 * 1e3, int8 * 8e3)}


def test_speed_is_weighed_over_both_batches() -> None:
    """Half the time for one image counts as much as half the time for eight; of several rounds the best does."""
    fp32 = np.array([[9.0, 9.0], [1.0, 8.0]])
    assert fastest_precision({"fp32": fp32, "int8": np.array([[0.5, 32.0]])}, "fp32") == "fp32"
    assert fastest_precision({"fp32": fp32, "int8": np.array([[0.5, 8.0]])}, "fp32") == "int8"


def test_the_session_is_that_of_the_chosen_variant(store: ModelStore) -> None:
    """The file that was chosen answers, and not only its name."""
    publish(store, others={INT8: file_of(NEAR)})
    images = np.full((1, SIZE, SIZE, 3), 255, np.uint8)
    fp32, int8 = (chosen(store, wish).session.run(images) for wish in ("fp32", "int8"))
    assert np.allclose(int8 - fp32, 3 * 255e-5, atol=1e-4)


def test_auto_leaves_out_what_fails_its_proof(
    store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A variant that answers otherwise here than its tolerance allows does not serve, however fast, and the log says so."""
    publish(store, others={INT8: file_of(FAR)})
    choice = chosen(store, "auto", fp32=1.0, int8=0.1)
    assert choice.precision == "fp32"
    assert "differ from training's" in choice.left_out["int8"]
    assert "cannot serve in int8" in caplog.text


def test_auto_leaves_out_what_is_no_model(store: ModelStore) -> None:
    """A file that ONNX Runtime refuses costs the variant and not the version."""
    publish(store, others={INT8: b"no model"})
    choice = chosen(store, "auto")
    assert choice.precision == "fp32"
    assert "can not load" in choice.left_out["int8"]


def test_gates_and_hardware_are_asked_before_the_clock(store: ModelStore) -> None:
    """A variant with a failed gate, and one for GPUs, are not even loaded."""
    publish(
        store,
        others={INT8.model_copy(update={"gate": (FAILED,)}): b"not loaded", FP16: b"not loaded"},
    )
    choice = chosen(store, "auto")
    assert (choice.precision, choice.note) == ("fp32", None)
    assert choice.left_out == {"int8": "its gate top1_loss failed", "fp16": "it needs a GPU"}


def test_a_waived_gate_holds(store: ModelStore) -> None:
    """Its owner knew better, and the reason stands in the manifest."""
    waived = FAILED.model_copy(update={"waived": "speed counts here"})
    publish(store, others={INT8.model_copy(update={"gate": (waived,)}): file_of(NEAR)})
    assert chosen(store, "auto", fp32=1.0, int8=0.5).precision == "int8"


@pytest.mark.parametrize(
    ("others", "note"),
    [({}, "this version has no int8 variant"), ({INT8: file_of(FAR)}, "differ from training's")],
)
def test_a_named_precision_that_can_not_serve_gives_way_to_fp32(
    store: ModelStore, others: dict[Variant, bytes], note: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The version answers all the same; the log and the choice say why it is not as wished."""
    publish(store, others=others)
    choice = chosen(store, "int8")
    assert choice.precision == "fp32"
    assert note in (choice.note or "")
    assert "serves in fp32 instead of int8" in caplog.text


def test_fp32_must_hold_whatever_is_wished(store: ModelStore) -> None:
    """A version whose own numbers do not come out does not go live on the strength of its INT8 file."""
    publish(store, weights=FAR, others={INT8: file_of(WEIGHTS)})
    for wish in ("auto", "int8"):
        with pytest.raises(NumericsProofError, match="the fp32 logits differ"):
            chosen(store, wish)  # type: ignore[arg-type]


def test_a_real_measurement_chooses_one_of_them(store: ModelStore) -> None:
    """Without a measurement of the test's own the variants are timed here, in turn."""
    publish(store, others={INT8: file_of(NEAR)})
    with store.open(MODEL, 1) as version:
        choice = select_variant(version, "auto", SessionOptions())
    assert choice.precision in {"fp32", "int8"}
    assert set(choice.milliseconds) == {"fp32", "int8"}
    assert all(value > 0 for values in choice.milliseconds.values() for value in values)


def test_the_service_serves_as_set_and_says_so(tmp_path: Path) -> None:
    """SERVICE_PRECISION reaches the model, and the model routes tell which variant answers and which can not."""
    store = make_store(tmp_path / "store")
    publish(store, others={INT8: file_of(NEAR), FP16: b"not loaded"})
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


def test_the_start_says_where_another_precision_answers(store: ModelStore) -> None:
    """The accuracy that is printed was measured in fp32, so a person is told when that is not what answers."""
    publish(store, others={INT8: file_of(NEAR)})
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


def test_optimised_graph_is_kept_for_all_files_of_a_version(
    store: ModelStore, tmp_path: Path
) -> None:
    """A graph may have its weights in a file of their own: another version with other weights is not given the first one's."""
    cache = GraphCache(tmp_path / "cache", 10**8)
    for weights in (b"one", b"two", b"two"):
        publish(store, extra={"weights.bin": weights})
    for number in (1, 2, 3):
        with store.open(MODEL, number) as version:
            load_proven(version, version.variant("fp32"), SessionOptions(graphs=cache))
    assert len([entry for entry in (tmp_path / "cache" / FOLDER).iterdir() if entry.is_dir()]) == 2
