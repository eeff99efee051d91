"""The `add-report` command."""

from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from html_page import Page
from older_digits import BUILTIN, DIGITS, publish_older_digits

from model_store.golden import prove
from model_store.sealed_model import load_variant
from training.__main__ import main


def add_report(store: Path, *words: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        main, ["add-report", *words, "--store", str(store)]
    )


def test_the_next_version_has_a_report_and_test_images(tmp_path: Path) -> None:
    """The graph is the same. Names of golden images are those of the built-in model."""
    store = publish_older_digits(tmp_path / "store")
    result = add_report(store.root, DIGITS)
    assert result.exit_code == 0, result.output
    assert store.resolve(DIGITS) == 2
    with (
        store.open(DIGITS, 1) as before,
        store.open(DIGITS, 2) as after,
        BUILTIN.open(DIGITS, 1) as shipped,
    ):
        assert before.manifest.report_file is None
        assert after.read_file("model.onnx") == before.read_file("model.onnx")
        assert after.manifest.calibration == before.manifest.calibration
        prove(after, load_variant(after, after.variant()))
        samples = [each for each in after.manifest.golden if "test split" in each.purpose]
        assert [each.purpose[-1] for each in samples] == list("0123456789")
        assert [int(np.argmax(each.logits)) for each in samples] == list(range(10))
        metrics, old = after.manifest.metrics, before.manifest.metrics
        assert metrics is not None
        assert old is not None
        assert (metrics.top1, metrics.test_images) == (old.top1, 359)
        assert abs(metrics.loss - old.loss) < 1e-4  # type: ignore[operator]
        expected = shipped.manifest.metrics
        assert old.top_scores is None
        assert metrics.top_scores is not None
        assert expected is not None
        assert expected.top_scores is not None
        assert abs(metrics.top_scores.mean - expected.top_scores.mean) < 1e-4
        page = Page(after.read_file(str(after.manifest.report_file)))
        for part in ("classes", "confusion", "worst", "labels", "calibration", "data"):
            assert page.part(part)
        assert 'id="curves"' not in page.source
        assert f"{metrics.top1:.2%}" in page.source
        names = [[each.image for each in one.manifest.golden] for one in (after, shipped)]
        assert names[0] == names[1]


def test_without_examples_the_golden_images_stay(tmp_path: Path) -> None:
    store = publish_older_digits(tmp_path / "store")
    assert add_report(store.root, DIGITS, "--examples", "0").exit_code == 0
    with store.open(DIGITS, 1) as before, store.open(DIGITS, 2) as after:
        assert after.manifest.golden == before.manifest.golden
        assert after.manifest.report_file == "report.html"


def test_a_version_with_a_report_is_left_alone(tmp_path: Path) -> None:
    result = add_report(tmp_path / "store", DIGITS)
    assert result.exit_code == 1
    assert "already has a report" in result.output
    assert DIGITS not in [path.name for path in (tmp_path / "store").iterdir()]


def test_examples_are_not_added_to_a_version_with_int8(tmp_path: Path) -> None:
    """Its INT8 variant has no golden logits for them."""
    with BUILTIN.open(DIGITS, 1) as version:
        variants = version.manifest.variants
        int8 = {"model.int8.onnx": version.read_file("model.int8.onnx")}
    store = publish_older_digits(tmp_path / "store", int8, variants=variants)
    result = add_report(store.root, DIGITS)
    assert result.exit_code == 1
    assert "--examples 0" in result.output
    assert store.versions(DIGITS) == [1]
