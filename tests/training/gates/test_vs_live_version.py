"""Against the live version: what is worse, slower or larger is found, what is better passes, nothing is its own rival."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_store.manifest import Check
from model_store.store import ModelStore
from training.gates.gate import CHECKS, gate
from training.gates.vs_live_version import (
    LATENCY_CHECK,
    LIVE_READABLE_CHECK,
    NOT_WORSE_THAN_LIVE_CHECK,
    SIZE_CHECK,
)
from training.run.data import open_run_data
from training.run.directory import Run
from training.run.known_images import KNOWN_IMAGES_FILE
from training.steps.evaluate import evaluate
from training.steps.export import export
from training.steps.golden import take_golden
from training.steps.publish import publish
from training.steps.train import train

NAMES = {NOT_WORSE_THAN_LIVE_CHECK, LATENCY_CHECK, SIZE_CHECK, LIVE_READABLE_CHECK}
WAIVERS = dict.fromkeys(CHECKS, "a test")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty store."""
    (tmp_path / "store").mkdir()
    return ModelStore(tmp_path / "store")


def against_live(run: Run, store: ModelStore) -> dict[str, Check]:
    """The checks that look at the live version."""
    return {
        check.check: check
        for check in gate(run, open_run_data(run), WAIVERS, store)
        if check.check in NAMES
    }


def published(run: Run, store: ModelStore) -> None:
    """Make the run the live version, whatever its checks say."""
    against_live(run, store)
    data = open_run_data(run)
    version = publish(run, data, store).version
    store.promote(run.config.model, version)


@pytest.fixture
def hasty_run(new_run: Callable[..., Run], finished_run: Run) -> Run:
    """A larger network under the same name, after one step."""
    run = new_run("iterations=1", architecture="resnet56", model=finished_run.config.model)
    data = open_run_data(run)
    train(run, data)
    evaluate(run, data)
    export(run)
    take_golden(run, data)
    return run


def test_what_is_worse_slower_and_larger_than_the_live_version_is_found_and_what_is_better_passes(
    run_copy: Run, hasty_run: Run, store: ModelStore
) -> None:
    """ResNet-56 after one step against ResNet-20 after three epochs, then the other way round."""
    published(run_copy, store)
    worse = against_live(hasty_run, store)
    assert worse.keys() == NAMES - {LIVE_READABLE_CHECK}
    assert not any(check.passed for check in worse.values())
    assert worse[SIZE_CHECK].value == pytest.approx(3, abs=0.5)
    published(hasty_run, store)
    better = against_live(renamed(run_copy), store)
    assert better.keys() == NAMES - {LIVE_READABLE_CHECK}
    assert all(check.passed for check in better.values())


def test_there_is_nothing_to_compare_with_before_the_first_version_and_after_ones_own(
    run_copy: Run, store: ModelStore
) -> None:
    """A built-in model of the name is not meant either, and a run may be gated again after it was published."""
    assert against_live(run_copy, store) == {}
    published(run_copy, store)
    assert against_live(run_copy, store) == {}


def test_images_that_the_live_version_learned_from_do_not_judge(
    run_copy: Run, store: ModelStore
) -> None:
    """It would remember them: where it knows every test image, accuracy is not compared, and latency and size still are."""
    data = open_run_data(run_copy)
    known = run_copy.path / KNOWN_IMAGES_FILE
    digests = [int(data.scan.facts[index].digest[:16], 16) for index in data.split.test]
    np.save(known, np.array(digests, np.uint64))
    published(run_copy, store)
    known.unlink()
    assert against_live(renamed(run_copy), store).keys() == {LATENCY_CHECK, SIZE_CHECK}


def renamed(run: Run) -> Run:
    """The same run under another id."""
    (run.path / "published.json").unlink()
    return Run.open(run.path.rename(run.path.with_name(f"{run.run_id}-again")))


def test_other_classes_are_not_compared(run_copy: Run, store: ModelStore) -> None:
    """A live version of other labels under the same name can not be better or worse."""
    published(run_copy, store)
    manifest_path = store.root / run_copy.config.model / "1" / "manifest.json"
    manifest = json.loads(manifest_path.read_text())
    manifest["class_names"] = [f"other {number}" for number in range(10)]
    manifest_path.write_text(json.dumps(manifest))
    assert against_live(renamed(run_copy), store).keys() == {LATENCY_CHECK, SIZE_CHECK}


def test_a_damaged_live_version_is_a_check_that_can_be_waived(
    run_copy: Run, store: ModelStore
) -> None:
    """Its successor may be what mends it."""
    published(run_copy, store)
    with (store.root / run_copy.config.model / "1" / "model.onnx").open("ab") as file:
        file.write(b"x")
    (check,) = against_live(renamed(run_copy), store).values()
    assert (check.check, check.passed, check.waived) == (LIVE_READABLE_CHECK, False, "a test")
