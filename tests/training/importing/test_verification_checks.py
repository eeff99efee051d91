"""Each check of an import notices its own fault, on scores that are given by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from foreign_graphs import colour_graph, write
from PIL import Image

from model_store.manifest import Check, Input, Outputs, Preprocessing
from model_store.provenance import Imported, Metrics
from training.errors import ForeignModelError
from training.gates.waivers import IMPORT_CHECKS
from training.importing import accuracy_checks
from training.importing.accuracy_checks import (
    VerificationSet,
    check_accuracy,
    open_verification_set,
    score_labelled,
)
from training.importing.candidate import ImportCandidate
from training.importing.import_report import ImportReport
from training.importing.input_options import InputOptions
from training.importing.onnx_network import read_onnx
from training.importing.parity_checks import check_parity
from training.importing.presets import PRESETS
from training.importing.probes import make_probes, score_spread
from training.importing.verification import verify
from training.steps.evaluate import measure

COLOURS = ("red", "green", "blue")
PROBES = 32


def indexed(count: int) -> np.ndarray:
    """Images whose grey level is their index, uint8 `[count, 1, 1, 3]`."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 1, 1, 3))


def by_index(table: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A score function that looks up each image's row."""
    return lambda images: table[images[:, 0, 0, 0]].astype(np.float32)


def candidate_of(**values: Any) -> ImportCandidate:
    defaults = {
        "model": b"",
        "outputs": Outputs(),
        "preprocessing": Preprocessing(resize=8, crop_height=8, crop_width=8),
        "class_names": COLOURS,
        "max_batch_size": 32,
        "reference": by_index(np.zeros((1, 3))),
        "imported": Imported(kind="onnx", name="m", sha256="0" * 64, report="import.json"),
        "report": ImportReport("m"),
    }
    return ImportCandidate(**{**defaults, **values})


def probe_scores() -> np.ndarray:
    """Scores of PROBES images with a clear top-1 that differs between them."""
    scores = np.zeros((PROBES, 3), np.float32)
    scores[np.arange(PROBES), np.arange(PROBES) % 3] = 1
    return scores


def parity(
    run: Callable[[np.ndarray], np.ndarray], expected: np.ndarray, **values: Any
) -> dict[str, Check]:
    session = SimpleNamespace(run=run)
    candidate = candidate_of(**values)
    results = check_parity(candidate, session, indexed(len(expected)), expected)
    return {check.check: check for check in results}


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if not check.passed}


PARITY_CHECKS = {"parity_batch_1", "parity_batch_7", "parity_batch_32"}


def test_equal_scores_pass() -> None:
    checks = parity(by_index(probe_scores()), probe_scores(), identity_error=0.0005)
    others = {"probe_spread", "parity_top1", "batch_invariance", "classifier_identity"}
    assert set(checks) == PARITY_CHECKS | others
    assert failed(checks) == set()


@pytest.mark.parametrize("change", [0.002, -0.002])
def test_one_wrong_score_fails_parity(change: float) -> None:
    """Also if the mean error is small or negative."""
    scores = probe_scores()
    scores[5, 0] += change
    checks = parity(by_index(scores), probe_scores())
    assert failed(checks) == PARITY_CHECKS
    assert checks["parity_batch_7"].value == pytest.approx(0.002, rel=1e-3)


def test_scores_within_the_tolerance_pass() -> None:
    assert failed(parity(by_index(probe_scores() + np.float32(0.0009)), probe_scores())) == set()


def test_one_probe_with_huge_scores_hides_no_fault_of_the_others() -> None:
    expected = probe_scores()
    expected[5] = [2e4, 0, -1]
    scores = expected.copy()
    scores[5, 0] += 1.5
    assert failed(parity(by_index(scores), expected)) == set()
    scores[6, 0] += 0.002
    assert failed(parity(by_index(scores), expected)) == PARITY_CHECKS


@pytest.mark.parametrize("size", [1, 7, 32])
def test_a_fault_in_one_batch_size_is_noticed(size: int) -> None:
    """The top-1 of this batch size counts, not the best one."""
    right, wrong = by_index(probe_scores()), by_index(np.roll(probe_scores(), 1, axis=1))
    checks = parity(
        lambda images: (wrong if len(images) == size else right)(images), probe_scores()
    )
    assert failed(checks) == {f"parity_batch_{size}", "parity_top1", "batch_invariance"}


def test_a_fault_in_one_slot_of_the_batch_is_noticed() -> None:
    """Here the first probe is wrong as the last image of a batch, as in reversed order."""

    def run(images: np.ndarray) -> np.ndarray:
        scores = by_index(probe_scores())(images)
        if len(images) > 1 and images[-1, 0, 0, 0] == 0:
            scores[-1] -= 0.5
        return scores

    assert failed(parity(run, probe_scores())) == {"batch_invariance"}


def test_a_model_for_single_images_is_checked_with_single_images() -> None:
    checks = parity(by_index(probe_scores()), probe_scores(), max_batch_size=1)
    assert set(checks) == {"parity_batch_1", "probe_spread", "parity_top1"}


@pytest.mark.parametrize(("margin", "value"), [(0.0015, 1.0), (0.003, 31 / 32)])
def test_only_a_clear_top1_must_be_the_references(margin: float, value: float) -> None:
    """A margin up to twice the tolerance is not clear."""
    expected = probe_scores()
    expected[4] = [1 - margin, 1, 0]
    scores = expected.copy()
    scores[4] = [1, 1 - margin, 0]
    assert parity(by_index(scores), expected)["parity_top1"].value == pytest.approx(value)


def test_without_any_clear_top1_nothing_is_proven() -> None:
    unclear = np.zeros((PROBES, 3), np.float32)
    checks = parity(by_index(unclear), unclear)
    assert failed(checks) == {"parity_top1", "probe_spread"}


@pytest.mark.parametrize(("spread", "passed"), [(0.009, False), (0.011, True)])
def test_the_spread_must_be_ten_tolerances(spread: float, *, passed: bool) -> None:
    expected = np.tile(np.array([0, 0, 5], np.float32), (PROBES, 1))
    expected[0] = [spread, -spread, 5]
    check = parity(by_index(expected), expected)["probe_spread"]
    assert check.value == pytest.approx(spread, rel=1e-3)
    assert check.passed == passed


def test_a_shift_of_all_classes_is_no_spread() -> None:
    """It changes no probability."""
    assert score_spread(np.array([[0, 1], [5, 6]], np.float32)) == 0
    assert score_spread(np.array([[0, 1], [3, 0]], np.float32)) == 2


@pytest.mark.parametrize(("error", "passed"), [(0.0005, True), (0.002, False)])
def test_class_activation_maps_need_the_identity(error: float, *, passed: bool) -> None:
    checks = parity(by_index(probe_scores()), probe_scores(), identity_error=error)
    assert checks["classifier_identity"].value == error
    assert checks["classifier_identity"].passed == passed


def labelled(count: int) -> np.ndarray:
    """Labels without a pattern that a wrong index would preserve, int64 `[count]`."""
    return np.random.default_rng(0).integers(0, 3, count)


def scores_for(labels: np.ndarray, correct: int, margin: float = 3.0) -> np.ndarray:
    """Scores whose top-1 is the label for the first `correct` images and another class after."""
    predictions = np.where(np.arange(len(labels)) < correct, labels, (labels + 1) % 3)
    scores = np.zeros((len(labels), 3), np.float32)
    scores[np.arange(len(labels)), predictions] = margin + np.arange(len(labels)) / 1000
    return scores


def accuracy(
    labels: np.ndarray,
    own: np.ndarray,
    alternatives: dict[str, np.ndarray] | None = None,
    floor: float = 0.5,
) -> dict[str, Check]:
    candidate = candidate_of(
        reference=by_index(own),
        alternatives={name: by_index(table) for name, table in (alternatives or {}).items()},
    )
    chosen = SimpleNamespace(labels=labels, floor=floor)
    metrics = measure(own, labels, candidate.outputs)
    results = check_accuracy(candidate, chosen, indexed(len(labels)), metrics)
    return {check.check: check for check in results}


def test_the_accuracy_floor_is_compared_with_top1() -> None:
    labels = labelled(20)
    assert accuracy(labels, scores_for(labels, 10), floor=0.5)["accuracy_floor"].passed
    check = accuracy(labels, scores_for(labels, 10), floor=0.51)["accuracy_floor"]
    assert check.value == 0.5
    assert not check.passed


@pytest.mark.parametrize(("images", "passed"), [(9, False), (10, True)])
def test_ten_images_are_required(images: int, *, passed: bool) -> None:
    labels = labelled(images)
    assert accuracy(labels, scores_for(labels, images))["verify_images"].passed == passed


@pytest.mark.parametrize(("classes", "passed"), [(1, False), (2, True)])
def test_two_classes_are_required(classes: int, *, passed: bool) -> None:
    labels = np.arange(12) % classes
    assert accuracy(labels, scores_for(labels, 12))["verify_classes"].passed == passed


def test_a_better_alternative_fails() -> None:
    """200 of the 240 images are compared; of two better alternatives the best one is named."""
    labels = labelled(240)
    alternatives = {"A": scores_for(labels, 180), "B": scores_for(labels, 240)}
    check = accuracy(labels, scores_for(labels, 120), alternatives)["no_better_reading"]
    assert not check.passed
    assert check.value < 1e-6
    assert "200 with B" in check.detail
    assert "100 of 200" in check.detail


def test_a_worse_alternative_passes() -> None:
    labels = labelled(240)
    alternatives = {"A": scores_for(labels, 120), "B": scores_for(labels, 180)}
    check = accuracy(labels, scores_for(labels, 240), alternatives)["no_better_reading"]
    assert check.value == 1
    assert "200 of 200" in check.detail


@pytest.mark.parametrize(("alternatives", "value"), [(1, 1 / 32), (2, 2 / 32)])
def test_more_alternatives_need_more_evidence(alternatives: int, value: float) -> None:
    """Five gains of five have a p-value of 1/32, which Bonferroni multiplies."""
    labels = np.array([0, 1, 2, 0, 1])
    better = scores_for(labels, 5, margin=4)
    tables = {"A": better, "B": scores_for(labels, 0)}
    names = list(tables)[:alternatives]
    check = accuracy(labels, scores_for(labels, 4), {name: tables[name] for name in names})
    assert check["no_better_reading"].value == pytest.approx(value)
    assert check["no_better_reading"].passed == (alternatives == 2)


def test_an_alternative_must_also_be_correct_more_often() -> None:
    """Larger probabilities of the labels alone are no better input spec."""
    labels = labelled(20)
    check = accuracy(labels, scores_for(labels, 20, margin=1), {"A": scores_for(labels, 20)})
    assert check["no_better_reading"].value == 1


def with_margins(labels: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Scores of the labels; the other classes have 0."""
    scores = np.zeros((len(labels), 3), np.float32)
    scores[np.arange(len(labels)), labels] = margins
    return scores


def test_of_two_better_alternatives_the_one_with_more_correct_images_counts() -> None:
    """Here its p-value is the larger one: it gains much on half of the images and loses on half."""
    labels = labelled(100)
    own = np.linspace(-3, 3, 100)
    likelier = with_margins(labels, own + 0.5)
    correct = with_margins(labels, np.where(own > 0, own - 0.1, 1))
    values = [
        accuracy(labels, with_margins(labels, own), tables)["no_better_reading"].value
        for tables in ({"A": likelier}, {"B": correct}, {"A": likelier, "B": correct})
    ]
    assert 0 < values[0] < values[1] < 0.01
    assert values[2] == pytest.approx(2 * values[1])


def geometry_check(gain: int, geometries: tuple[int, ...]) -> Check:
    """120 images, of which geometry 1 classifies `gain` more correctly, and all more clearly.

    Geometries of one number give the same pixels, and 0 is that of the candidate.
    """
    labels = labelled(120)
    own = with_margins(labels, np.where(np.arange(120) < 60, 1, -1))
    other = with_margins(labels, np.where(np.arange(120) < 60 + gain, 2, -0.5))

    def pixels(positions: np.ndarray, preprocessing: int, _: int = 1) -> np.ndarray:
        images = indexed(120)[positions - 1000].copy()
        images[..., 1] = preprocessing
        return images

    def reference(images: np.ndarray) -> np.ndarray:
        is_other = images[:, 0, 0, 1] == 1
        return np.where(is_other[:, None], by_index(other)(images), by_index(own)(images))

    candidate = candidate_of(
        reference=reference,
        geometries={f"resize {n}": number for n, number in enumerate(geometries)},
    )
    chosen = SimpleNamespace(
        labels=labels,
        floor=0.1,
        chosen=np.arange(1000, 1120),
        images=SimpleNamespace(pixels=pixels),
    )
    own_pixels = pixels(chosen.chosen, 0)
    metrics = measure(own, labels, candidate.outputs)
    checks = check_accuracy(candidate, chosen, own_pixels, metrics)  # type: ignore[arg-type]
    return {check.check: check for check in checks}["no_better_reading"]


@pytest.mark.parametrize(("gain", "passed"), [(2, True), (3, False)])
def test_a_geometry_needs_two_percent_more_correct_images(gain: int, *, passed: bool) -> None:
    check = geometry_check(gain, (1,))
    assert check.passed == passed
    assert (check.value == 1) == passed


def test_geometries_with_the_same_pixels_count_once() -> None:
    """Neither the candidate's own geometry nor a repeated one raises the p-value."""
    assert geometry_check(9, (0, 1, 1)).value == geometry_check(9, (1,)).value > 0
    assert geometry_check(9, (2, 1)).value == pytest.approx(2 * geometry_check(9, (1,)).value)


def test_without_alternatives_there_is_no_such_check() -> None:
    labels = labelled(20)
    assert "no_better_reading" not in accuracy(labels, scores_for(labels, 20))


def test_top5_counts_five_ranks() -> None:
    scores = np.tile(np.arange(7, 0, -1, dtype=np.float32), (3, 1))
    metrics = measure(scores, np.array([0, 4, 5]), Outputs(logits="logits"))
    assert metrics.top1 == pytest.approx(1 / 3)
    assert metrics.top5 == pytest.approx(2 / 3)
    assert metrics.test_images == 3
    assert metrics.top1_interval[0] < 1 / 3 < metrics.top1_interval[1] < 1
    top = 1 / np.exp(-np.arange(7.0)).sum()  # of each image
    assert metrics.top_scores.mean == pytest.approx(top)
    assert metrics.top_scores.percentiles == pytest.approx({"5": top, "50": top, "95": top})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images of each colour, each image different."""
    for position, colour in enumerate(COLOURS):
        (tmp_path / "images" / colour).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((40, 40, 3), 10 * number, np.uint8)
            pixels[..., position] = 200
            Image.fromarray(pixels).save(tmp_path / "images" / colour / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, folder: Path) -> VerificationSet:
    """Five of the twelve images."""
    monkeypatch.setattr(accuracy_checks, "MAX_VERIFICATION_IMAGES", 5)
    return open_verification_set(folder, COLOURS, None)


def test_a_large_folder_is_sampled_evenly(few: VerificationSet) -> None:
    assert few.chosen.tolist() == [0, 2, 5, 8, 11]
    names = [few.images.label(index) for index in few.chosen]
    assert [COLOURS[label] for label in few.labels] == names
    assert len(set(names)) == 3


def test_the_default_floor_is_halfway_from_chance_to_1(few: VerificationSet) -> None:
    assert few.floor == pytest.approx(2 / 3)


@pytest.mark.parametrize(("floor", "allowed"), [(1 / 3, False), (0.34, True), (0.0, False)])
def test_the_floor_must_be_above_chance(folder: Path, floor: float, *, allowed: bool) -> None:
    if allowed:
        assert open_verification_set(folder, COLOURS, floor).floor == floor
    else:
        with pytest.raises(ForeignModelError, match="--min-accuracy"):
            open_verification_set(folder, COLOURS, floor)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> ImportCandidate:
    """An import that scores red, green and blue."""
    options = InputOptions(preset=PRESETS["zero-one"], preset_name="zero-one")
    return read_onnx(write(tmp_path_factory.mktemp("colours"), colour_graph()), COLOURS, options)


@pytest.mark.parametrize("samples", [0, 2, 5])
def test_golden_images_are_of_as_many_classes_as_samples(
    colours: ImportCandidate, few: VerificationSet, samples: int
) -> None:
    """With two samples of three classes, they are of the first and the last one."""
    result = verify(colours, few, samples)
    images = {entry.encoded: few.labels[position] for position, entry in encoded(few)}
    golden = [block for block in result.golden if "sample-" in block.image]
    classes = [images[result.files[block.image]] for block in golden]
    assert classes == {0: [], 2: [0, 2], 5: [0, 1, 2]}[samples]
    assert [int(np.argmax(block.logits)) for block in golden] == classes
    names = [f"golden/sample-{number}.png" for number in range(1, len(classes) + 1)]
    assert [block.image for block in golden] == names
    assert {check.check for check in result.checks} <= set(IMPORT_CHECKS)
    assert set(IMPORT_CHECKS) > PARITY_CHECKS


def encoded(chosen: VerificationSet) -> list[tuple[int, SimpleNamespace]]:
    return [
        (position, SimpleNamespace(encoded=chosen.images.encoded[index]))
        for position, index in enumerate(chosen.chosen)
    ]


def test_a_deviation_from_the_reference_is_noticed_everywhere(
    colours: ImportCandidate, few: VerificationSet
) -> None:
    """The golden images have the reference's logits, and the session is compared with them."""
    shifted = replace(colours, reference=lambda pixels: colours.reference(pixels) + 0.5)
    result = verify(shifted, few, 3)
    checks = {check.check: check for check in result.checks}
    assert checks["golden_numerics"].value == pytest.approx(0.5, rel=1e-3)
    assert {*PARITY_CHECKS, "golden_numerics"} <= failed(checks)
    block = result.golden[0]
    assert max(block.logits) == pytest.approx(0.5 + 10 * 200 / 255, rel=1e-4)


def test_labelled_images_are_among_the_probes(
    colours: ImportCandidate, few: VerificationSet
) -> None:
    calls: list[np.ndarray] = []

    def reference(pixels: np.ndarray) -> np.ndarray:
        calls.append(pixels)
        return colours.reference(pixels)

    verify(replace(colours, reference=reference), few, 0)
    probes = make_probes(Input(height=32, width=32))
    assert np.array_equal(calls[0][: len(probes)], probes)
    assert len(calls[0]) == len(probes) + 5
    many = replace(few, chosen=np.tile(few.chosen, 20))
    calls.clear()
    verify(replace(colours, reference=reference), many, 0)
    assert len(calls[0]) == len(probes) + 32


def test_a_reference_without_finite_scores_is_refused(colours: ImportCandidate) -> None:
    infinite = replace(colours, reference=lambda pixels: colours.reference(pixels) * np.inf)
    with np.errstate(invalid="ignore"), pytest.raises(ForeignModelError, match="NaN"):
        verify(infinite, None, 0)


def test_all_labelled_images_are_scored() -> None:
    """In chunks, after each of which the progress is reported."""
    table = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)
    progress: list[tuple[int, int]] = []
    session = SimpleNamespace(run=by_index(table))
    scores = score_labelled(
        session,  # type: ignore[arg-type]
        indexed(70),
        7,
        lambda done, total: progress.append((done, total)),
    )
    assert np.array_equal(scores, table)
    assert progress == [(32, 70), (64, 70), (70, 70)]


def test_metrics_are_those_of_the_labelled_images(
    colours: ImportCandidate, few: VerificationSet
) -> None:
    metrics = verify(colours, few, 0).metrics
    assert isinstance(metrics, Metrics)
    assert (metrics.top1, metrics.test_images) == (1.0, 5)
