"""The gate against the live version: worse, slower or larger exports fail, better ones pass."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from short_runs import publish_as_passed

from model_store.manifest import Check
from model_store.session import Session
from model_store.store import ModelStore
from training.gates.gate import gate
from training.gates.vs_live_version import (
    LATENCY_CHECK,
    LIVE_READABLE_CHECK,
    NOT_WORSE_THAN_LIVE_CHECK,
    SIZE_CHECK,
    compare_with_live,
)
from training.gates.waivers import RUN_CHECKS
from training.run.data import RunData, open_run_data
from training.run.directory import Run
from training.run.known_images import TRAINED_IMAGES_FILE
from training.steps.evaluate import evaluate
from training.steps.export import MODEL_FILE, OUTPUTS, export, model_input
from training.steps.golden import write_golden
from training.steps.train import train

NAMES = {NOT_WORSE_THAN_LIVE_CHECK, LATENCY_CHECK, SIZE_CHECK, LIVE_READABLE_CHECK}
WAIVERS = dict.fromkeys(RUN_CHECKS, "a test")
TEST_IMAGES = 60


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty store."""
    (tmp_path / "store").mkdir()
    return ModelStore(tmp_path / "store")


def compare(run: Run, store: ModelStore, data: RunData | None = None) -> dict[str, Check]:
    """Return the checks against the live version by name."""
    session = Session(run.path / MODEL_FILE, model_input(run), OUTPUTS)
    checks = compare_with_live(run, data or open_run_data(run), session, store)
    return {check.check: check for check in checks}


def make_live(run: Run, store: ModelStore) -> None:
    """Publish a gated run and promote it, whatever its checks found."""
    store.promote(run.config.model, publish_as_passed(run, store).version)


def with_another_id(run: Run) -> Run:
    """Return the same run under another id, as if it had never been published."""
    (run.path / "published.json").unlink()
    return Run.open(run.path.rename(run.path.with_name(f"{run.run_id}-again")))


@pytest.mark.slow
def test_worse_slower_and_larger_exports_fail_and_better_ones_pass(
    gated_copy: Run, new_run: Callable[..., Run], store: ModelStore
) -> None:
    """ResNet-56 after one step against ResNet-20 after three epochs, then the reverse."""
    make_live(gated_copy, store)
    worse = new_run("iterations=1", architecture="resnet56", model=gated_copy.config.model)
    data = open_run_data(worse)
    data = replace(data, split=replace(data.split, test=data.split.test[:TEST_IMAGES]))
    train(worse, data)
    evaluate(worse, data)
    export(worse)
    write_golden(worse, data)
    checks = {check.check: check for check in gate(worse, data, WAIVERS, store)}
    assert checks.keys() & NAMES == NAMES - {LIVE_READABLE_CHECK}
    assert not any(checks[name].passed for name in NAMES - {LIVE_READABLE_CHECK})
    assert checks[SIZE_CHECK].value == pytest.approx(3, abs=0.5)
    make_live(worse, store)
    better = compare(with_another_id(gated_copy), store)
    assert better.keys() == NAMES - {LIVE_READABLE_CHECK}
    assert all(check.passed for check in better.values())


def test_the_first_version_and_a_run_s_own_version_are_not_compared(
    gated_copy: Run, store: ModelStore
) -> None:
    """A built-in model of the same name is not compared either."""
    assert compare(gated_copy, store) == {}
    make_live(gated_copy, store)
    assert compare(gated_copy, store) == {}


def test_images_that_the_live_version_was_trained_on_are_not_compared(
    gated_copy: Run, store: ModelStore
) -> None:
    """If it was trained on all test images, only latency and size are compared."""
    data = open_run_data(gated_copy)
    trained = gated_copy.path / TRAINED_IMAGES_FILE
    digests = [int(data.scan.facts[index].digest[:16], 16) for index in data.split.test]
    np.save(trained, np.array(digests, np.uint64))
    make_live(gated_copy, store)
    assert compare(with_another_id(gated_copy), store).keys() == {LATENCY_CHECK, SIZE_CHECK}


def test_accuracy_on_other_classes_is_not_compared(gated_copy: Run, store: ModelStore) -> None:
    make_live(gated_copy, store)
    manifest_path = store.root / gated_copy.config.model / "1" / "manifest.json"
    manifest = json.loads(manifest_path.read_text())
    manifest["class_names"] = [f"other {number}" for number in range(10)]
    manifest_path.write_text(json.dumps(manifest))
    assert compare(with_another_id(gated_copy), store).keys() == {LATENCY_CHECK, SIZE_CHECK}


def test_a_damaged_live_version_fails_a_check_that_can_be_waived(
    gated_copy: Run, store: ModelStore
) -> None:
    """The new version may repair the model."""
    make_live(gated_copy, store)
    with (store.root / gated_copy.config.model / "1" / "model.onnx").open("ab") as file:
        file.write(b"x")
    run = with_another_id(gated_copy)
    checks = gate(run, open_run_data(run), WAIVERS, store)
    (check,) = [check for check in checks if check.check in NAMES]
    assert (check.check, check.passed, check.waived) == (LIVE_READABLE_CHECK, False, "a test")
