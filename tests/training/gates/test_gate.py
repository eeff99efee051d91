"""Gates: pass on a true export, notice each way in which an export or its preprocessing can be false."""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from model_store.manifest import Check, Preprocessing
from model_store.preprocessing import Pixels, prepare
from training.errors import GateError, RunError
from training.gates import gate as gates
from training.gates import preprocessing as preprocessing_gates
from training.learning.networks import build_network
from training.learning.normalization import Normalization
from training.run.data import open_run_data
from training.run.directory import Run
from training.steps.evaluate import read_labels, read_logits
from training.steps.export import ExportModule

WAIVED = {"accuracy_floor": "three epochs", "accuracy_jpeg": "three epochs"}


def failed(checks: tuple[Check, ...]) -> set[str]:
    """The names of the checks that did not pass."""
    return {check.check for check in checks if not check.passed}


def test_a_true_export_passes_everything_but_what_three_epochs_can_not(
    run_copy: Run,
) -> None:
    """Parity at batch 1, an odd size and the maximum, invariance, encoded accuracy, golden proof and its sensitivity."""
    checks = gates.gate(run_copy, open_run_data(run_copy))
    names = {check.check for check in checks}
    assert {
        "parity_batch_1",
        "parity_batch_7",
        "parity_batch_32",
        "accuracy_png",
        "accuracy_jpeg",
        "accuracy_floor",
    } <= names
    assert failed(checks) <= {"accuracy_jpeg"}
    assert gates.read_checks(run_copy) == checks
    assert tuple(check.check for check in checks) == gates.CHECKS[:-5], (
        "all but what needs an older model"
    )


@pytest.mark.parametrize("fault", sorted(preprocessing_gates.PREPROCESSING_FAULTS))
def test_each_fault_of_preprocessing_breaks_the_golden_proof(run_copy: Run, fault: str) -> None:
    """Swapped channels, ignored EXIF, another interpolation and a shifted crop are each noticed."""
    checks = {check.check: check for check in gates.gate(run_copy, open_run_data(run_copy))}
    assert checks[f"golden_notices_{fault}"].value >= 1


def test_a_blind_golden_set_fails_the_gate(run_copy: Run) -> None:
    """Without the EXIF image nothing would notice ignored EXIF, and the gate says so."""
    blocks = [
        block
        for block in run_copy.read_json("golden/golden.json", "export")
        if "exif" not in block["image"]
    ]
    run_copy.write_json("golden/golden.json", blocks)
    assert "golden_notices_ignored_exif" in failed(gates.gate(run_copy, open_run_data(run_copy)))


def test_an_export_of_other_weights_fails_parity(run_copy: Run) -> None:
    """Logits that are not torch's are found at every batch size, and in the golden images."""
    with np.load(run_copy.path / "evaluation.npz") as archive:
        arrays = dict(archive)
    arrays["logits"][5] += 0.01
    with open(run_copy.path / "evaluation.npz", "wb") as file:
        np.savez(file, **arrays)
    assert {"parity_batch_1", "parity_batch_7", "parity_batch_32"} <= failed(
        gates.gate(run_copy, open_run_data(run_copy))
    )


def test_skewed_preprocessing_fails_the_accuracy_on_encoded_images(
    run_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were `prepare` not what training used, the accuracy on encoded images would tell."""

    def inverted(data: bytes, spec: Preprocessing) -> Pixels:
        return 255 - prepare(data, spec)

    monkeypatch.setattr(preprocessing_gates, "prepare", inverted)
    assert {"accuracy_png", "golden_decode"} <= failed(
        gates.gate(run_copy, open_run_data(run_copy))
    )


def test_a_failed_check_stops_the_publish_until_it_is_waived(run_copy: Run) -> None:
    """The error names the check and the way past; a waiver is kept with its reason; a waiver of nothing is refused."""
    figures = run_copy.read_json("evaluation.json", "evaluate")
    run_copy.write_json("evaluation.json", {**figures, "top1": 0.1})
    data = open_run_data(run_copy)
    with pytest.raises(GateError, match=r"accuracy_floor failed.*--waive accuracy_floor="):
        gates.require_passed(gates.gate(run_copy, data))
    checks = gates.gate(run_copy, data, {"accuracy_floor": "a demonstration"})
    gates.require_passed(checks)
    assert {check.check: check.waived for check in checks}["accuracy_floor"] == "a demonstration"
    with pytest.raises(GateError, match="there is no check accuracy_flor"):
        gates.gate(run_copy, data, {"accuracy_flor": "a slip"})


def test_a_waiver_of_a_check_that_passed_leaves_no_trace(run_copy: Run) -> None:
    """Only what failed is waived."""
    checks = gates.gate(run_copy, open_run_data(run_copy), {"parity_batch_1": "just in case"})
    assert {check.check: check.waived for check in checks}["parity_batch_1"] is None


def test_a_step_that_comes_too_early_names_the_one_before(
    new_run: Callable[..., Run],
) -> None:
    """Gating what was not exported says so."""
    run = new_run()
    with pytest.raises(RunError, match="training export"):
        gates.gate(run, open_run_data(run))


def test_served_model_normalises_as_training_did() -> None:
    """The graph's multiply and add are training's (pixel - mean) / std, to float precision."""
    network, normalize = (
        build_network("resnet20", 10).eval(),
        Normalization(torch.tensor([[[47.0]]]), torch.tensor([[[81.25]]])),
    )
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    served, _ = ExportModule(network, normalize)(images)
    assert torch.allclose(served, network(normalize(images)), atol=1e-4)


def test_of_few_images_three_may_change_by_jpeg(run_copy: Run) -> None:
    """Of 60 test images one is more than a point, and is no evidence of anything; of 359 a point is more than three."""
    data = open_run_data(run_copy)
    few = replace(data, split=replace(data.split, test=data.split.test[:60]))
    logits, labels = read_logits(run_copy), read_labels(run_copy)
    run_copy.write("evaluation.npz", npz(logits=logits[:60], labels=labels[:60]))
    right = float((logits[:60].argmax(1) == labels[:60]).mean())
    checks = {check.check: check for check in gates.gate(run_copy, few)}
    assert checks["accuracy_jpeg"].threshold == pytest.approx(right - 3 / 60)
    assert checks["accuracy_png"].threshold == right


def npz(**arrays: np.ndarray) -> bytes:
    """Arrays as a file's bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
