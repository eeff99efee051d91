"""Publishing: a run becomes a sealed version that verifies, proves itself and says where it comes from."""

import shutil
from pathlib import Path

import pytest

from model_store import golden
from model_store.errors import PublishError
from model_store.session import Session
from model_store.store import ModelStore
from training.errors import GateError, RunError
from training.gates import gate as gates
from training.quantization.publication import publish_variant
from training.quantization.variants import QuantizedVariant
from training.run.data import open_run_data
from training.run.directory import Run
from training.steps.calibrate import CALIBRATION_FILE, read_calibration
from training.steps.publish import Published, publish


def publish_gated(run: Run, store: ModelStore, **options: bool) -> Published:
    """Publish a gated run as if all of its checks had passed."""
    data = open_run_data(run)
    findings = run.read_json("gates.json", "gate")
    run.write_json(
        "gates.json",
        {**findings, "checks": [{**check, "passed": True} for check in findings["checks"]]},
    )
    return publish(run, data, store, **options)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty store that does not exist yet."""
    return ModelStore(tmp_path / "store", builtin_root=None)


def test_a_published_run_proves_itself_and_names_its_origin(
    gated_copy: Run, store: ModelStore
) -> None:
    """Files verify, the golden proof holds, `production` points to it, and the manifest tells command, data and seed."""
    assert publish_gated(gated_copy, store) == Published(1, promoted=True)
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


def test_the_version_has_the_runs_calibration(gated_copy: Run, store: ModelStore) -> None:
    """What calibration.json says stands in the manifest."""
    publish_gated(gated_copy, store)
    with store.open("digits-resnet20", 1) as version:
        assert version.manifest.calibration == read_calibration(gated_copy).calibration is not None


def test_a_run_that_was_not_calibrated_is_published_without(
    gated_copy: Run, store: ModelStore
) -> None:
    """It answers with plain softmax and never abstains."""
    (gated_copy.path / CALIBRATION_FILE).unlink()
    publish_gated(gated_copy, store)
    with store.open("digits-resnet20", 1) as version:
        assert version.manifest.calibration is None


def test_no_promote_publishes_and_leaves_production_alone(
    gated_copy: Run, store: ModelStore
) -> None:
    """The version is there, and `production` does not name it."""
    assert publish_gated(gated_copy, store, promote=False) == Published(1, promoted=False)
    assert store.aliases("digits-resnet20").names() == []


@pytest.mark.parametrize("way", ["asked", "waived"])
def test_what_is_held_back_does_not_serve_as_the_newest(
    gated_copy: Run, store: ModelStore, way: str
) -> None:
    """Where no alias says what serves the newest does, so the version that served is named `production` first."""
    publish_gated(gated_copy, store, promote=False)
    another = Run.open(Path(shutil.copytree(gated_copy.path, gated_copy.path.with_name("another"))))
    if way == "asked":
        assert publish_gated(another, store, promote=False) == Published(2, promoted=False)
    else:
        findings = another.read_json("gates.json", "gate")
        failed = {**findings["checks"][0], "passed": False, "waived": "a demonstration"}
        another.write_json("gates.json", {**findings, "checks": [failed]})
        assert publish(another, open_run_data(another), store) == Published(2, promoted=False)
    assert (
        store.resolve("digits-resnet20")
        == store.aliases("digits-resnet20").version("production")
        == 1
    )


def test_a_built_in_model_can_not_be_held_back(gated_copy: Run, tmp_path: Path) -> None:
    """A version of its name would hide it and serve; so nothing is published."""
    store = ModelStore(tmp_path / "store")
    with pytest.raises(PublishError, match="digits-resnet20 is a built-in model"):
        publish_gated(gated_copy, store, promote=False)
    assert store.layer("digits-resnet20") == "built-in"


def test_a_run_is_published_once_and_a_cut_publish_is_finished(
    gated_copy: Run, store: ModelStore
) -> None:
    """After a crash between the version and the alias, doing it again moves the alias and makes no second version."""
    assert publish_gated(gated_copy, store, promote=False).version == 1
    assert publish_gated(gated_copy, store) == Published(1, promoted=True)
    assert store.versions("digits-resnet20") == [1]


def test_what_was_rolled_back_is_not_promoted_again(gated_copy: Run, store: ModelStore) -> None:
    """Publishing the same run once more does not undo a person's decision."""
    publish_gated(gated_copy, store)
    store.aliases("digits-resnet20").promote("production", 7)
    assert publish_gated(gated_copy, store) == Published(1, promoted=False)


def test_what_was_waived_is_published_and_not_promoted(run_copy: Run, store: ModelStore) -> None:
    """`production` follows only where every check passed; a person may still promote it by hand."""
    figures = run_copy.read_json("evaluation.json", "evaluate")
    run_copy.write_json("evaluation.json", {**figures, "top1": 0.1})
    data = open_run_data(run_copy)
    gates.gate(
        run_copy, data, {"accuracy_floor": "a demonstration", "accuracy_jpeg": "three epochs"}
    )
    assert publish(run_copy, data, store) == Published(1, promoted=False)
    assert store.aliases("digits-resnet20").names() == []


def test_what_failed_its_gates_is_not_published(run_copy: Run, store: ModelStore) -> None:
    """Nothing appears in the store."""
    figures = run_copy.read_json("evaluation.json", "evaluate")
    run_copy.write_json("evaluation.json", {**figures, "top1": 0.1})
    data = open_run_data(run_copy)
    gates.gate(run_copy, data, {"accuracy_jpeg": "three epochs"})
    with pytest.raises(GateError, match="accuracy_floor failed"):
        publish(run_copy, data, store)
    assert not store.root.exists()


@pytest.mark.parametrize("name", ["model.onnx", "classifier.npz", "golden/colours.npy"])
def test_a_file_that_changed_after_the_gates_is_not_published(
    run_copy: Run, store: ModelStore, name: str
) -> None:
    """What was gated is what is sealed."""
    data = open_run_data(run_copy)
    gates.gate(run_copy, data, {"accuracy_jpeg": "three epochs"})
    run_copy.write(name, (run_copy.path / name).read_bytes() + b"x")
    with pytest.raises(RunError, match=f"{name} changed after the gates"):
        publish(run_copy, data, store)


def test_what_others_left_behind_does_not_stop_a_publish(
    gated_copy: Run, store: ModelStore
) -> None:
    """An empty model directory of a publisher that was killed, and a version whose manifest is damaged."""
    (store.root / "digits-resnet20" / "1").mkdir(parents=True)
    (store.root / "digits-resnet20" / "1" / "manifest.json").write_text("{}")
    assert publish_gated(gated_copy, store).version == 2


def test_another_precision_is_not_what_the_run_was_published_as(
    gated_copy: Run, store: ModelStore
) -> None:
    """Publishing again finds the run's own version, and does not promote what was held back."""
    publish_gated(gated_copy, store)
    model = gated_copy.config.model
    with store.open(model, 1) as version:
        made = QuantizedVariant("int8", b"a file", 0.5, (), (), (1.0, 1.0))
        assert publish_variant(version, made, store, promote=False).version == 2
    assert publish(gated_copy, open_run_data(gated_copy), store) == Published(1, promoted=True)
    assert store.aliases(model).version("production") == 1
