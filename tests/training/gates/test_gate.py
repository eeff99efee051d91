"""The gates: a correct export passes, and each fault of an export or its preprocessing fails."""

import io
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from model_store.manifest import Check, Preprocessing
from model_store.preprocessing import Pixels, prepare
from model_store.session import Session
from training.errors import GateError, RunError
from training.gates import gate as gates
from training.gates import preprocessing as preprocessing_gates
from training.gates.parity import parity_checks
from training.gates.waivers import RUN_CHECKS
from training.learning.networks import build_network
from training.learning.normalization import Normalization
from training.run.data import RunData, open_run_data
from training.run.directory import Run
from training.steps.evaluate import read_labels, read_logits
from training.steps.export import MODEL_FILE, OUTPUTS, ExportModule, model_input

TEST_IMAGES = 60


class SmallRun(NamedTuple):
    """A run with few test images, so that its gates are fast."""

    run: Run
    data: RunData

    @property
    def session(self) -> Session:
        return Session(self.run.path / MODEL_FILE, model_input(self.run), OUTPUTS)


@pytest.fixture
def small_run(run_copy: Run, finished_data: RunData) -> SmallRun:
    """A copy of the finished run with the first of its test images."""
    split = replace(finished_data.split, test=finished_data.split.test[:TEST_IMAGES])
    write_evaluation(
        run_copy, read_logits(run_copy)[:TEST_IMAGES], read_labels(run_copy)[:TEST_IMAGES]
    )
    return SmallRun(run_copy, replace(finished_data, split=split))


def write_evaluation(run: Run, logits: np.ndarray, labels: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, logits=logits, labels=labels)
    run.write("evaluation.npz", buffer.getvalue())


def failed_checks(checks: tuple[Check, ...]) -> set[str]:
    """Return the names of the checks that failed."""
    return {check.check for check in checks if not check.passed}


def test_a_correct_export_passes(gated_run: Run) -> None:
    """Only JPEG may fail after three epochs. Checks against an older model do not run."""
    checks = gates.read_checks(gated_run)
    assert tuple(check.check for check in checks) == RUN_CHECKS[:-5]
    assert {
        "parity_batch_1",
        "parity_batch_7",
        "parity_batch_32",
        "accuracy_png",
        "accuracy_jpeg",
        "accuracy_floor",
    } <= {check.check for check in checks}
    assert failed_checks(checks) <= {"accuracy_jpeg"}


def test_gates_return_what_they_write(small_run: SmallRun) -> None:
    assert gates.gate(*small_run) == gates.read_checks(small_run.run)


@pytest.mark.parametrize("fault", sorted(preprocessing_gates.PREPROCESSING_FAULTS))
def test_golden_images_notice_each_preprocessing_fault(gated_run: Run, fault: str) -> None:
    """At least one golden image decodes to other pixels."""
    checks = {check.check: check for check in gates.read_checks(gated_run)}
    assert checks[f"golden_notices_{fault}"].value >= 1


def test_golden_images_that_cannot_notice_a_fault_fail(small_run: SmallRun) -> None:
    """Without the EXIF image, ignored EXIF orientations would pass."""
    blocks = [
        block
        for block in small_run.run.read_json("golden/golden.json", "export")
        if "exif" not in block["image"]
    ]
    small_run.run.write_json("golden/golden.json", blocks)
    assert "golden_notices_ignored_exif" in failed_checks(gates.gate(*small_run))


def test_an_export_of_other_weights_fails_parity(small_run: SmallRun) -> None:
    """One wrong logit fails at every batch size."""
    logits = read_logits(small_run.run).copy()
    logits[5] += 0.01
    write_evaluation(small_run.run, logits, read_labels(small_run.run))
    checks = tuple(parity_checks(small_run.run, small_run.data, small_run.session))
    assert {"parity_batch_1", "parity_batch_7", "parity_batch_32"} <= failed_checks(checks)


def test_preprocessing_other_than_that_of_training_fails(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The accuracy on encoded images and the golden images notice it."""

    def inverted(data: bytes, spec: Preprocessing) -> Pixels:
        return 255 - prepare(data, spec)

    monkeypatch.setattr(preprocessing_gates, "prepare", inverted)
    assert {"accuracy_png", "golden_decode"} <= failed_checks(gates.gate(*small_run))


def test_a_failed_check_must_be_waived(small_run: SmallRun) -> None:
    """The error names the check and the option. The reason of the waiver is stored."""
    figures = small_run.run.read_json("evaluation.json", "evaluate")
    small_run.run.write_json("evaluation.json", {**figures, "top1": 0.1})
    waivers = {"accuracy_jpeg": "few images"}
    with pytest.raises(GateError, match=r"accuracy_floor failed.*--waive accuracy_floor="):
        gates.require_passed(gates.gate(*small_run, waivers))
    checks = gates.gate(*small_run, {**waivers, "accuracy_floor": "a demonstration"})
    gates.require_passed(checks)
    assert {check.check: check.waived for check in checks}["accuracy_floor"] == "a demonstration"


def test_the_first_failed_check_is_the_one_to_waive() -> None:
    checks = tuple(
        Check(check=name, passed=False, value=0, threshold=1, comparison="at_least", detail="")
        for name in ("accuracy_png", "accuracy_floor")
    )
    with pytest.raises(GateError, match="--waive accuracy_png=") as caught:
        gates.require_passed(checks)
    assert "accuracy_floor" in str(caught.value)


def test_results_of_the_gates_are_valid_for_the_checked_files_only(gated_copy: Run) -> None:
    """The error names the changed file."""
    path = gated_copy.path / "golden" / "golden.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(RunError, match=r"golden/golden\.json changed"):
        gates.read_checks(gated_copy)


@pytest.mark.parametrize(
    "damage", [{}, {"files": {}}, {"files": {}, "checks": [{}]}, {"files": {}, "checks": 3}]
)
def test_damaged_results_of_the_gates_are_named(gated_copy: Run, damage: dict[str, object]) -> None:
    gated_copy.write_json(gates.GATES_FILE, damage)
    with pytest.raises(RunError, match=gates.GATES_FILE):
        gates.read_checks(gated_copy)


def test_a_waiver_of_an_unknown_check_is_rejected(small_run: SmallRun) -> None:
    with pytest.raises(GateError, match="accuracy_flor"):
        gates.gate(*small_run, {"accuracy_flor": "a typing error"})


def test_a_waiver_of_a_passed_check_is_not_stored(small_run: SmallRun) -> None:
    checks = gates.gate(*small_run, {"parity_batch_1": "not needed"})
    assert {check.check: check.waived for check in checks}["parity_batch_1"] is None


def test_gating_before_the_export_names_the_missing_step(new_run: Callable[..., Run]) -> None:
    run = new_run()
    with pytest.raises(RunError, match="training export"):
        gates.gate(run, open_run_data(run))


def test_the_export_normalizes_as_training_does() -> None:
    """The multiply and add of the graph equal (pixel - mean) / std up to rounding."""
    network = build_network("resnet20", 10).eval()
    normalize = Normalization(torch.tensor([[[47.0]]]), torch.tensor([[[81.25]]]))
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    logits, *_ = ExportModule(network, normalize)(images)
    assert torch.allclose(logits, network(normalize(images)), atol=1e-4)


def test_accuracy_is_the_share_of_labels_that_the_export_gives(small_run: SmallRun) -> None:
    """A session that always answers class 3 is right for the images of that class."""
    answers = np.eye(10, dtype=np.float32)[[3]]
    session = SimpleNamespace(run=lambda _: answers)
    checks = preprocessing_gates.accuracy_checks(small_run.run, small_run.data, session)
    values = {check.check: check.value for check in checks}
    share = (read_labels(small_run.run) == 3).mean()
    assert 0 < share < 1
    assert (values["accuracy_png"], values["accuracy_jpeg"]) == (share, share)


def test_jpeg_may_change_three_images_of_a_small_test_split(small_run: SmallRun) -> None:
    """One image of 60 is more than a percentage point. PNG may change none."""
    correct = read_logits(small_run.run).argmax(1) == read_labels(small_run.run)
    checks = {check.check: check for check in gates.gate(*small_run)}
    assert checks["accuracy_jpeg"].threshold == pytest.approx(correct.mean() - 3 / TEST_IMAGES)
    assert checks["accuracy_png"].threshold == correct.mean()
