"""Publishing: a run becomes a sealed version with its provenance."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from short_runs import publish_as_passed

from model_store import golden
from model_store.errors import PublishError
from model_store.provenance import Metrics, TopScores
from model_store.session import Session
from model_store.store import ModelStore
from model_store.version import MAX_REPORT_BYTES
from training.derived_version import publish_derived
from training.errors import GateError, RunError
from training.gates import gate as gates
from training.quantization.publication import publish_variant
from training.quantization.quantized_variant import QuantizedVariant
from training.reports.run_report import PUBLISHED_REPORT_FILE
from training.run.data import open_run_data
from training.run.directory import Run
from training.steps.calibrate import CALIBRATION_FILE, read_calibration
from training.steps.evaluate import read_logits
from training.steps.publish import Published, publish

TOP_SCORES = TopScores(mean=0.8, percentiles={"5": 0.5, "50": 0.9, "95": 1.0})
VARIANT = QuantizedVariant("int8", b"a file", 0.5, (), (), (1.0, 1.0), TOP_SCORES)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty store that does not exist yet."""
    return ModelStore(tmp_path / "store", builtin_root=None)


def fail_check(run: Run, waived: str | None) -> None:
    """Change the results of the gates: only the accuracy floor failed."""
    results = run.read_json("gates.json", "gate")
    checks = [{**check, "passed": True} for check in results["checks"]]
    (floor,) = [check for check in checks if check["check"] == "accuracy_floor"]
    floor.update(passed=False, waived=waived)
    run.write_json("gates.json", {**results, "checks": checks})


def test_a_published_version_verifies_and_has_its_provenance(
    gated_copy: Run, store: ModelStore
) -> None:
    """The golden images match, and `production` points to the version."""
    assert publish_as_passed(gated_copy, store) == Published(1, promoted=True)
    with store.open("digits-resnet20", store.resolve("digits-resnet20")) as version:
        manifest = version.manifest
        golden.prove(version, Session(version.path("model.onnx"), manifest.input, manifest.outputs))
        assert manifest.training is not None
        assert manifest.metrics is not None
        assert manifest.training.command.startswith("python -m training run --arch resnet20")
        assert (
            version.path("checkpoint.safetensors").read_bytes()
            == (gated_copy.path / "best.safetensors").read_bytes()
        )
        assert manifest.training.git_commit == gated_copy.config.git_commit
        assert manifest.training.data.digest == open_run_data(gated_copy).digest
        assert manifest.training.data.split == {"train": 1259, "validation": 179, "test": 359}
        assert manifest.training.run_id == gated_copy.run_id
        assert manifest.metrics.test_images == 359
        assert manifest.gate == gates.read_checks(gated_copy)
    assert store.aliases("digits-resnet20").version("production") == 1


def test_the_version_has_the_calibration_of_the_run(gated_copy: Run, store: ModelStore) -> None:
    publish_as_passed(gated_copy, store)
    with store.open("digits-resnet20", 1) as version:
        assert version.manifest.calibration == read_calibration(gated_copy).calibration is not None


def test_the_version_has_the_calibrated_top_scores_of_the_test_images(
    gated_copy: Run, store: ModelStore
) -> None:
    publish_as_passed(gated_copy, store)
    manifest = store.open_manifest("digits-resnet20", 1).manifest
    assert manifest.metrics
    assert manifest.calibration
    assert manifest.calibration.temperature != 1
    top = softmax(read_logits(gated_copy) / manifest.calibration.temperature, axis=1).max(axis=1)
    found = manifest.metrics.top_scores
    assert found
    assert found.mean == pytest.approx(top.mean())
    assert found.percentiles["50"] == pytest.approx(np.median(top))


@pytest.mark.parametrize("of_older_release", [True, False])
def test_a_variant_of_an_older_release_gets_the_top_scores(
    gated_copy: Run, store: ModelStore, *, of_older_release: bool
) -> None:
    """A newer version keeps its own."""
    publish_as_passed(gated_copy, store)
    model = gated_copy.config.model
    own = TOP_SCORES.model_copy(update={"mean": 0.7})
    metrics = Metrics(top1=1, test_images=9, top_scores=None if of_older_release else own)
    with store.open(model, 1) as version:
        files = {entry.path: version.read_file(entry.path) for entry in version.manifest.files}
        publish_derived(version, store, {"metrics": metrics}, files, why="a test", promote=True)
    with store.open(model, 2) as version:
        assert publish_variant(version, VARIANT, store, promote=False).version == 3
    published = store.open_manifest(model, 3).manifest.metrics
    assert published
    assert published.top_scores == (TOP_SCORES if of_older_release else own)


def test_the_version_holds_the_report_of_the_run(gated_copy: Run, store: ModelStore) -> None:
    """Sealed with the other files, and named in the manifest."""
    gated_copy.write(PUBLISHED_REPORT_FILE, b"<!doctype html>")
    publish_as_passed(gated_copy, store)
    with store.open("digits-resnet20", 1) as version:
        assert version.manifest.training is not None
        assert version.manifest.training.report == "report.html"
        assert version.read_file("report.html") == b"<!doctype html>"


@pytest.mark.parametrize("reason", ["none", "too large", "not wanted"])
def test_a_version_without_report_does_not_name_one(
    gated_copy: Run, store: ModelStore, reason: str
) -> None:
    run = gated_copy
    if reason != "none":
        size = MAX_REPORT_BYTES + (reason == "too large")
        run.write(PUBLISHED_REPORT_FILE, bytes(size))
    if reason == "not wanted":
        path = run.path / "config.json"
        config = {**json.loads(path.read_text()), "keep_report": False}
        path.write_text(json.dumps(config))
        run = Run.open(run.path)
    publish_as_passed(run, store)
    with store.open("digits-resnet20", 1) as version:
        assert version.manifest.training is not None
        assert version.manifest.training.report is None
        assert b'"report"' not in version.manifest.to_bytes()
        assert "report.html" not in {entry.path for entry in version.manifest.files}


def test_a_run_without_calibration_can_be_published(gated_copy: Run, store: ModelStore) -> None:
    (gated_copy.path / CALIBRATION_FILE).unlink()
    publish_as_passed(gated_copy, store)
    with store.open("digits-resnet20", 1) as version:
        assert version.manifest.calibration is None


def test_no_promote_publishes_without_changing_production(
    gated_copy: Run, store: ModelStore
) -> None:
    assert publish_as_passed(gated_copy, store, promote=False) == Published(1, promoted=False)
    assert store.aliases("digits-resnet20").names() == []


@pytest.mark.parametrize("reason", ["requested", "waived"])
def test_a_version_that_is_not_promoted_is_not_served_as_the_newest(
    gated_copy: Run, store: ModelStore, reason: str
) -> None:
    """Without `production` the newest version is served, so the served version is pinned first."""
    publish_as_passed(gated_copy, store, promote=False)
    another = Run.open(Path(shutil.copytree(gated_copy.path, gated_copy.path.with_name("another"))))
    if reason == "requested":
        assert publish_as_passed(another, store, promote=False) == Published(2, promoted=False)
    else:
        fail_check(another, waived="a demonstration")
        assert publish(another, open_run_data(another), store) == Published(2, promoted=False)
    assert (
        store.resolve("digits-resnet20")
        == store.aliases("digits-resnet20").version("production")
        == 1
    )


def test_a_run_named_as_a_built_in_model_cannot_be_published_without_promotion(
    gated_copy: Run, tmp_path: Path
) -> None:
    """The version would hide the built-in model and be served, so nothing is published."""
    store = ModelStore(tmp_path / "store")
    with pytest.raises(PublishError, match="digits-resnet20 is a built-in model"):
        publish_as_passed(gated_copy, store, promote=False)
    assert store.layer("digits-resnet20") == "built-in"


def test_a_run_is_published_once(gated_copy: Run, store: ModelStore) -> None:
    """After a crash before the promotion, publishing again only promotes the version."""
    assert publish_as_passed(gated_copy, store, promote=False).version == 1
    assert publish_as_passed(gated_copy, store) == Published(1, promoted=True)
    assert store.versions("digits-resnet20") == [1]


def test_a_version_that_was_rolled_back_is_not_promoted_again(
    gated_copy: Run, store: ModelStore
) -> None:
    """Publishing the same run again keeps the rollback."""
    publish_as_passed(gated_copy, store)
    store.aliases("digits-resnet20").promote("production", 7)
    assert publish_as_passed(gated_copy, store) == Published(1, promoted=False)


def test_a_version_with_a_waived_check_is_not_promoted(gated_copy: Run, store: ModelStore) -> None:
    """It is published, and can be promoted by hand."""
    fail_check(gated_copy, waived="a demonstration")
    assert publish(gated_copy, open_run_data(gated_copy), store) == Published(1, promoted=False)
    assert store.aliases("digits-resnet20").names() == []


def test_a_run_that_failed_its_gates_is_not_published(gated_copy: Run, store: ModelStore) -> None:
    """Nothing appears in the store."""
    fail_check(gated_copy, waived=None)
    with pytest.raises(GateError, match="accuracy_floor failed"):
        publish(gated_copy, open_run_data(gated_copy), store)
    assert not store.root.exists()


@pytest.mark.parametrize("name", ["model.onnx", "classifier.npz", "golden/colours.npy"])
def test_a_file_that_changed_after_the_gates_is_not_published(
    gated_copy: Run, store: ModelStore, name: str
) -> None:
    """The published files are the gated ones."""
    gated_copy.write(name, (gated_copy.path / name).read_bytes() + b"x")
    with pytest.raises(RunError, match=f"{name} changed after the gates"):
        publish_as_passed(gated_copy, store)


def test_a_damaged_version_does_not_prevent_a_publish(gated_copy: Run, store: ModelStore) -> None:
    """A killed publisher may leave a version with a damaged manifest."""
    (store.root / "digits-resnet20" / "1").mkdir(parents=True)
    (store.root / "digits-resnet20" / "1" / "manifest.json").write_text("{}")
    assert publish_as_passed(gated_copy, store).version == 2


def test_a_version_with_another_variant_is_not_the_published_version_of_the_run(
    gated_copy: Run, store: ModelStore
) -> None:
    """Publishing again returns the version of the run and keeps `production`."""
    publish_as_passed(gated_copy, store)
    model = gated_copy.config.model
    with store.open(model, 1) as version:
        assert publish_variant(version, VARIANT, store, promote=False).version == 2
    assert publish(gated_copy, open_run_data(gated_copy), store) == Published(1, promoted=True)
    assert store.aliases(model).version("production") == 1
