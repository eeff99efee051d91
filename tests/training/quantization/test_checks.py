"""The checks of a variant fail for their own reason, and for no other."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_store.manifest import Check
from model_store.session import Session
from model_store.version import Version
from training.gates.waivers import VARIANT_CHECKS
from training.quantization import checks
from training.quantization.checks import (
    VariantCandidate,
    check_variant,
    golden_expected,
    golden_tolerance,
    top1_loss_points,
)
from training.quantization.scoring import Scorer, open_scorer, score
from training.run.data import RunData

Checks = dict[str, Check]


@pytest.fixture(scope="module")
def scorer(digits: Version) -> Iterator[Scorer]:
    with open_scorer(digits.manifest) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def same(scorer: Scorer, digits_graph: bytes, digits_data: RunData) -> VariantCandidate:
    """A candidate that is fp32 itself, in a file of a third of the size."""
    session: Session = scorer.open(digits_graph)
    test = digits_data.split.test
    logits = score(session, digits_data.chunks(test))
    return VariantCandidate(
        "int8",
        digits_graph[: len(digits_graph) // 3],
        digits_graph,
        session,
        session,
        logits,
        logits,
        digits_data.images.labels[test],
        logits[:5],
        logits[:5],
        tolerance=0.1,
    )


@pytest.fixture(autouse=True)
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """The measured seconds by name, `[rounds, batches]`; tests that check the speed change them."""
    times = {name: np.ones((9, 2)) for name in ("fp32", "int8", "fp16")}
    monkeypatch.setattr(
        checks, "time_alternately", lambda runs, *_, **__: {n: times[n] for n in runs}
    )
    return times


CheckFunction = Callable[..., Checks]


@pytest.fixture
def check(scorer: Scorer, digits_data: RunData) -> CheckFunction:
    """Run all checks of a candidate, and return them by name."""
    sample = next(digits_data.chunks(digits_data.split.test[:40]))

    def run(candidate: VariantCandidate, scorer: Scorer = scorer, **waivers: str) -> Checks:
        results = check_variant(candidate, scorer, sample, 0.5, waivers)
        return {result.check: result for result in results}

    return run


def failed(results: Checks) -> list[str]:
    return [name for name, result in results.items() if not result.passed]


def swapped(logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The logits with the first and the second class of these rows exchanged."""
    changed = logits.copy()
    for row in rows:
        first, second = np.argsort(-logits[row])[:2]
        changed[row, [first, second]] = logits[row, [second, first]]
    return changed


def clearest(logits: np.ndarray) -> int:
    ordered = np.sort(logits, axis=1)
    return int((ordered[:, -1] - ordered[:, -2]).argmax())


def test_identical_logits_pass_every_check(same: VariantCandidate, check: CheckFunction) -> None:
    results = check(same)
    assert set(results) == set(VARIANT_CHECKS) - {"density_abstained"}  # has a test of its own
    assert failed(results) == []
    assert results["size"].value == pytest.approx(1 / 3, abs=1e-4)


def test_a_constant_shift_of_the_logits_changes_abstention(
    same: VariantCandidate, check: CheckFunction
) -> None:
    """It changes no probability, but the energy on which abstention depends."""
    assert failed(check(replace(same, logits=same.expected - 1))) == ["logit_drift", "abstained"]


def test_a_version_without_calibration_has_no_checks_of_it(
    same: VariantCandidate, scorer: Scorer, check: CheckFunction
) -> None:
    manifest = scorer.manifest.model_copy(update={"calibration": None})
    assert set(VARIANT_CHECKS) - set(check(same, replace(scorer, manifest=manifest))) == {
        "abstained",
        "coverage_0.8",
        "coverage_0.9",
        "coverage_0.95",
        "calibration_error",
        "density_abstained",
    }


def test_a_single_flip_of_a_clear_image_fails(same: VariantCandidate, check: CheckFunction) -> None:
    """Its loss of top-1 is allowed."""
    row = clearest(same.expected)
    results = check(replace(same, logits=swapped(same.expected, np.array([row]))))
    assert not results["flips_clear"].passed
    assert results["flips_near_margin"].value == 0
    assert results["top1_loss"].value == pytest.approx(100 / 359)
    assert results["top1_loss"].passed


def test_clear_means_clear_in_fp32(same: VariantCandidate, check: CheckFunction) -> None:
    """The variant's own margin does not count."""
    row = clearest(same.expected)
    unclear, clear = same.expected.copy(), same.expected.copy()
    clear[row] = np.roll(clear[row], 1)
    unclear[row] = clear[row] / 100
    assert check(replace(same, logits=unclear))["flips_clear"].value == pytest.approx(1 / 359)
    one_unclear = check(replace(same, expected=unclear, logits=same.expected))
    assert one_unclear["flips_near_margin"].value == pytest.approx(1 / 359)
    assert one_unclear["flips_clear"].value == 0


@pytest.mark.parametrize(
    ("images", "flips", "passed"), [(359, 7, True), (359, 8, False), (60, 2, True), (60, 3, False)]
)
def test_few_unclear_images_may_flip(
    same: VariantCandidate, check: CheckFunction, images: int, flips: int, *, passed: bool
) -> None:
    """At most 2 % of them, or two images."""
    unclear = same.expected[:images] / 100
    logits, labels = swapped(unclear, np.arange(flips)), same.labels[:images]
    results = check(replace(same, expected=unclear, logits=logits, labels=labels))
    assert results["flips_near_margin"].value == pytest.approx(flips / images)
    assert results["flips_near_margin"].passed == passed
    assert results["flips_clear"].passed


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("top1_loss", lambda same: {"logits": swapped(same.expected, np.arange(3))}),
        ("logit_drift", lambda same: {"logits": same.expected * 1.2}),
        ("logit_drift", lambda same: {"logits": same.expected * np.nan}),
        ("abstained", lambda same: {"logits": same.expected * 0.5}),
        ("coverage_0.8", lambda same: {"logits": swapped(same.expected, np.arange(0, 359, 2))}),
        ("calibration_error", lambda same: {"logits": same.expected / 4}),
        ("golden_top1", lambda same: {"golden_logits": -same.golden_expected}),
        (
            "golden_top1",
            lambda same: {"golden_logits": swapped(same.golden_expected, np.arange(1))},
        ),
        ("size", lambda same: {"data": same.fp32_data}),
    ],
)
def test_a_worse_variant_fails(
    same: VariantCandidate, check: CheckFunction, name: str, change: Callable[..., dict[str, Any]]
) -> None:
    assert not check(replace(same, **change(same)))[name].passed


def test_a_gain_of_top1_passes(same: VariantCandidate, check: CheckFunction) -> None:
    expected = swapped(same.expected, np.arange(3))
    results = check(replace(same, expected=expected, logits=same.expected))
    assert results["top1_loss"].value == pytest.approx(-100 * 3 / 359)
    assert results["top1_loss"].passed


def test_unclear_golden_images_may_flip(same: VariantCandidate, check: CheckFunction) -> None:
    unclear = same.golden_expected / 100
    candidate = replace(same, golden_expected=unclear, golden_logits=swapped(unclear, np.arange(5)))
    assert check(candidate)["golden_top1"].passed


@pytest.mark.parametrize(
    ("name", "before", "after", "passed"),
    [
        ("abstained", {"abstained": 0.2}, {"abstained": 0.2}, True),
        ("abstained", {"abstained": 0.2}, {"abstained": 0.3}, False),
        ("abstained", {"abstained": 0.0}, {"abstained": 0.05}, True),
        ("coverage_0.9", {"coverage": 0.7}, {"coverage": 0.68}, True),
        ("coverage_0.9", {"coverage": 0.7}, {"coverage": 0.5}, False),
        ("coverage_0.9", {"coverage": 0.97}, {"coverage": 0.9}, True),
        ("coverage_0.9", {"coverage": 0.9}, {"coverage": 0.7}, False),
        ("calibration_error", {"ece_before": 0.05, "ece_after": 0.02}, {"ece_after": 0.055}, True),
        ("calibration_error", {"ece_before": 0.05, "ece_after": 0.02}, {"ece_after": 0.065}, False),
        ("calibration_error", {"ece_before": 0.02, "ece_after": 0.05}, {"ece_after": 0.055}, True),
    ],
)
def test_a_calibration_may_be_as_bad_as_fp32s(
    same: VariantCandidate,
    check: CheckFunction,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    before: dict[str, float],
    after: dict[str, float],
    *,
    passed: bool,
) -> None:
    """Its promise, or fp32's own figure if that is worse, holds within chance."""
    figures = iter([figures_of(**before), figures_of(**after)])
    monkeypatch.setattr(checks, "measure_calibration", lambda *_: next(figures))
    assert check(same)[name].passed == passed


def figures_of(
    abstained: float = 0.0, coverage: float = 0.9, ece_before: float = 0.0, ece_after: float = 0.0
) -> SimpleNamespace:
    return SimpleNamespace(
        abstained=abstained,
        sets={"0.9": SimpleNamespace(coverage=coverage)},
        ece_before=ece_before,
        ece_after=ece_after,
    )


@pytest.mark.parametrize(
    ("precision", "change", "passed"),
    [
        ("int8", 0.01, False),
        ("int8", -0.01, False),
        ("int8", 0.0005, True),
        ("fp16", 0.01, True),
        ("fp16", 0.2, False),
    ],
)
def test_logits_must_not_depend_on_the_batch_size(
    same: VariantCandidate, check: CheckFunction, precision: str, change: float, *, passed: bool
) -> None:
    """INT8 may change by 0.001, half precision by the variant's tolerance."""

    class BatchDependentSession:
        def run(self, images: np.ndarray) -> np.ndarray:
            logits = np.zeros((len(images), 10), np.float32)
            return logits if len(images) == 1 else logits + np.float32(change)

    candidate = replace(same, precision=precision, session=BatchDependentSession())
    result = check(candidate)["batch_invariance"]
    assert result.value == pytest.approx(abs(change))
    assert result.passed == passed


def test_a_model_for_single_images_has_no_batch_invariance(
    same: VariantCandidate, scorer: Scorer, check: CheckFunction
) -> None:
    manifest = scorer.manifest.model_copy(update={"max_batch_size": 1})
    assert "batch_invariance" not in check(same, replace(scorer, manifest=manifest))


def test_the_size_limit_depends_on_the_precision(
    same: VariantCandidate, check: CheckFunction
) -> None:
    """55 % of fp32's bytes are too many for INT8, and fine for fp16."""
    data = same.fp32_data[: int(0.55 * len(same.fp32_data))]
    assert not check(replace(same, data=data))["size"].passed
    assert check(replace(same, data=data, precision="fp16"))["size"].passed


@pytest.mark.parametrize(("faster", "passed"), [(3, True), (1, False)])
def test_a_variant_must_be_faster_in_a_quarter_of_the_rounds(
    same: VariantCandidate,
    check: CheckFunction,
    seconds: dict[str, np.ndarray],
    faster: int,
    *,
    passed: bool,
) -> None:
    """The first of the nine rounds warms up and does not count."""
    seconds["int8"][:] = 1.25
    seconds["int8"][0] = 0.01
    seconds["int8"][1 : 1 + faster] = 0.5
    result = check(same)["speed"]
    assert result.value == pytest.approx(2.0 if passed else 0.8)
    assert result.passed == passed


def test_half_precision_is_timed_on_a_gpu_only(
    same: VariantCandidate, scorer: Scorer, check: CheckFunction, seconds: dict[str, np.ndarray]
) -> None:
    class GpuScorer(Scorer):
        uses_gpu = True  # type: ignore[assignment]

    half = replace(same, precision="fp16")
    assert "speed" not in check(half)
    seconds["fp16"][:] = 0.5
    gpu_scorer = GpuScorer(scorer.manifest, scorer.folder)
    assert check(half, gpu_scorer)["speed"].value == pytest.approx(2)


def test_only_a_failed_check_keeps_its_waiver(same: VariantCandidate, check: CheckFunction) -> None:
    waivers = {"size": "a disk is cheap", "top1_loss": "not needed"}
    results = check(replace(same, data=same.fp32_data), **waivers)
    assert results["size"].waived == "a disk is cheap"
    assert results["top1_loss"].waived is None


def test_loss_is_in_percentage_points() -> None:
    """One of four images lost is 25 points; one gained is -25."""
    right = np.eye(4, dtype=np.float32)
    wrong = right.copy()
    wrong[0] = [0, 1, 0, 0]
    assert top1_loss_points(wrong, right, np.arange(4)) == 25
    assert top1_loss_points(right, wrong, np.arange(4)) == -25


def test_the_golden_tolerance_is_the_largest_drift() -> None:
    """It doubles for half precision, and is never below fp32's tolerance."""
    assert golden_tolerance("int8", [0.1, 0.25]) == 0.25
    assert golden_tolerance("fp16", [0.1, 0.25]) == golden_tolerance("bf16", [0.25]) == 0.5
    assert golden_tolerance("int8", [0.0]) == golden_tolerance("fp16", []) == 1e-3


def test_golden_logits_have_a_row_per_image_and_a_column_per_class(digits: Version) -> None:
    """Also without golden images."""
    golden = golden_expected(digits.manifest)
    assert golden.shape == (len(digits.manifest.golden), 10)
    assert golden[-1].tolist() == pytest.approx(list(digits.manifest.golden[-1].logits))
    assert golden_expected(digits.manifest.model_copy(update={"golden": ()})).shape == (0, 10)
