"""The numbers of the gate against the live version, computed by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest
from stated import stated

from model_store.manifest import Check
from training.gates import vs_live_version
from training.run.data import PIXEL_CHUNK_SIZE
from training.steps.export import WEIGHTS_FILE

NAMES, LIVE_NAMES = ("a", "b", "new", "c"), ("c", "old", "a", "b")


class Comparison:
    """Compares the answers of both models on test images, which follow five others.

    Classes are named by letters, and `n` is the class that the live version lacks.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        labels: str,
        answers: str,
        live_answers: str,
        known: tuple[int, ...] = (),
        live_names: tuple[str, ...] = LIVE_NAMES,
        recorded: str | None = "digests",
    ) -> None:
        self.said: list[str] = []
        self.compared: list[int] = []
        """Positions of the images that the live version classified."""
        live_logits = self._logits(LIVE_NAMES, live_answers)

        def run_live(_: object, __: object, indices: np.ndarray, ___: object) -> np.ndarray:
            self.compared += (indices - 5).tolist()
            return live_logits[indices - 5]

        def is_known(_: object, indices: np.ndarray, __: object) -> np.ndarray:
            return np.isin(indices - 5, known)

        monkeypatch.setattr(vs_live_version, "read_logits", lambda _: self._logits(NAMES, answers))
        monkeypatch.setattr(vs_live_version, "read_version_known_images", lambda _: recorded)
        monkeypatch.setattr(vs_live_version, "is_known_image", is_known)
        monkeypatch.setattr(vs_live_version, "_live_logits", run_live)
        positions = [[name[0] for name in NAMES].index(letter) for letter in labels]
        images = SimpleNamespace(class_names=NAMES, labels=np.array([0] * 5 + positions))
        split = SimpleNamespace(test=np.arange(5, 5 + len(labels)))
        data = SimpleNamespace(images=images, split=split, scan=None)
        live = SimpleNamespace(manifest=SimpleNamespace(class_names=live_names), number=1)
        self.checks: list[Check] = list(
            vs_live_version._accuracy_check(None, data, None, live, self.said.append)
        )

    @staticmethod
    def _logits(names: tuple[str, ...], answers: str) -> np.ndarray:
        """The class that only one model has is always the first choice."""
        logits = np.zeros((len(answers), len(names)))
        logits[:, [name in {"new", "old"} for name in names]] = 3
        logits[np.arange(len(answers)), [names.index(letter) for letter in answers]] = 2
        return logits


@pytest.mark.parametrize(
    ("answers", "live_answers", "p_value"),
    [
        ("aabbc", "aabbc", 1.0),
        ("bbaab", "aabbc", 1 / 32),  # five losses
        ("aabbc", "bbaab", 1.0),  # five gains
        ("bbbbc", "aabba", 1 / 2),  # two losses and a gain
    ],
)
def test_the_p_value_is_that_of_gains_and_losses(
    monkeypatch: pytest.MonkeyPatch, answers: str, live_answers: str, p_value: float
) -> None:
    """Both models choose among the classes that both have."""
    (check,) = Comparison(monkeypatch, "aabbc", answers, live_answers).checks
    assert check.value == pytest.approx(p_value)
    assert check.passed == (p_value >= 0.05)


def test_images_of_new_classes_and_known_images_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    comparison = Comparison(monkeypatch, "anabbnc", "bbbaabb", "aaabbac", known=(2, 3))
    assert comparison.compared == [0, 4, 6]
    assert comparison.checks[0].value == pytest.approx(1 / 8)  # three losses


@pytest.mark.parametrize(
    "change", [{"live_names": ("a", "x", "y", "z")}, {"known": (0, 1)}, {"recorded": None}]
)
def test_without_two_shared_classes_or_an_unknown_image_there_is_no_check(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """One sentence says why. A version whose training images are not recorded may know them all."""
    comparison = Comparison(monkeypatch, "ab", "ab", "ab", **change)
    assert comparison.checks == []
    assert len(comparison.said) == 1


def test_two_shared_classes_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    live_names = ("x", "old", "a", "b")
    comparison = Comparison(monkeypatch, "ab", "ab", "ab", live_names=live_names)
    assert [check.passed for check in comparison.checks] == [True]
    assert comparison.said == []


def test_live_logits_come_from_the_live_preprocessing_in_the_order_of_the_images() -> None:
    """In chunks of a bounded number of decoded images, and in the live version's batches."""
    indices = np.arange(PIXEL_CHUNK_SIZE + 3)[::-1].copy()
    chunks: list[int] = []
    batches: list[int] = []

    def pixels(chunk: np.ndarray, spec: str, workers: int) -> np.ndarray:
        assert (spec, workers) == ("live spec", 2)
        chunks.append(len(chunk))
        return chunk

    def run(batch: np.ndarray) -> np.ndarray:
        batches.append(len(batch))
        return batch[:, None]

    manifest = SimpleNamespace(preprocessing="live spec", max_batch_size=4)
    logits = vs_live_version._live_logits(
        SimpleNamespace(run=run),  # type: ignore[arg-type]
        SimpleNamespace(images=SimpleNamespace(pixels=pixels), workers=2),  # type: ignore[arg-type]
        indices,
        SimpleNamespace(manifest=manifest),  # type: ignore[arg-type]
    )
    assert logits[:, 0].tolist() == indices.tolist()
    assert chunks == [PIXEL_CHUNK_SIZE, 3]
    assert max(batches) == 4


class Timings:
    """Sessions whose runs last as long as told; the clock moves by that much."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, max_batch_size: int = 64) -> None:
        self.now = 0.0
        self.seconds: dict[tuple[str, int], list[float]] = {}
        """Seconds of the rounds by model and batch size; the last one repeats."""
        self.runs: list[tuple[str, tuple[int, ...]]] = []
        monkeypatch.setattr(vs_live_version, "time", SimpleNamespace(perf_counter=lambda: self.now))
        self._max_batch_size = max_batch_size

    def _session(self, name: str) -> SimpleNamespace:
        def run(images: np.ndarray) -> None:
            assert images.dtype == np.uint8
            rounds = self.seconds[name, len(images)]
            self.now += rounds.pop(0) if len(rounds) > 1 else rounds[0]
            self.runs.append((name, images.shape))

        return SimpleNamespace(run=run)

    def ratio(self) -> tuple[float, str]:
        """The ratio, and the median milliseconds and batch sizes of the detail."""
        data = SimpleNamespace(preprocessing=SimpleNamespace(crop_height=8, crop_width=16))
        live_input = SimpleNamespace(height=32, width=64)
        manifest = SimpleNamespace(input=live_input, max_batch_size=self._max_batch_size)
        live = SimpleNamespace(manifest=manifest)
        own, other = self._session("own"), self._session("live")
        ratio, detail = vs_live_version._latency_ratio(own, other, data, live)
        return ratio, stated(detail)


def test_latency_is_the_larger_ratio_of_medians_after_a_warm_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 15 rounds at batch sizes 1 and 32; each model gets images of its own size."""
    timings = Timings(monkeypatch)
    timings.seconds = {
        ("own", 1): [0.5, 0.001, 0.003],
        ("live", 1): [0.001, 0.002],
        ("own", 32): [0.001],
        ("live", 32): [0.5, 0.001],
    }
    assert timings.ratio() == (pytest.approx(1.5), "3.00 2.00 1 1.00 1.00 32")
    shapes = [("own", (1, 8, 16, 3)), ("live", (1, 32, 64, 3))] * 15
    assert timings.runs[:30] == shapes
    assert timings.runs[30:] == [(name, (32, *shape[1:])) for name, shape in shapes]
    timings.seconds["own", 32] = [0.004]
    assert timings.ratio()[0] == pytest.approx(4)


def test_slow_models_are_timed_in_three_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a live version of single images at batch size 1 only."""
    timings = Timings(monkeypatch, max_batch_size=1)
    timings.seconds = {("own", 1): [10.0], ("live", 1): [5.0]}
    assert timings.ratio()[0] == pytest.approx(2)
    assert len(timings.runs) == 2 * 3


def test_rounds_end_after_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    timings = Timings(monkeypatch, max_batch_size=1)
    timings.seconds = {("own", 1): [0.25], ("live", 1): [0.25]}
    timings.ratio()
    assert len(timings.runs) == 2 * 6


class Store:
    """A store whose only model `m` has one version, which run `live run` published."""

    def __init__(self, root: Path, layer: str = "published") -> None:
        self.root, self._layer = root, layer
        (root / "model.onnx").write_bytes(b"." * 300)

    def exists(self) -> bool:
        return self.root.exists()

    def models(self) -> list[str]:
        return ["m"]

    def layer(self, _: str) -> str:
        return self._layer

    def resolve(self, _: str) -> int:
        return 7

    def open(self, *_: object) -> "Live":
        return Live(self.root)


class Live:
    """That version; its graph may have a file of weights beside it."""

    digest, number = "live digest", 7
    manifest = SimpleNamespace(training=SimpleNamespace(run_id="live run"))

    def __init__(self, folder: Path) -> None:
        self.path = folder.joinpath

    def variant(self) -> SimpleNamespace:
        return SimpleNamespace(file="model.onnx")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def compare(
    monkeypatch: pytest.MonkeyPatch, store: Store, run: Path, **config: object
) -> dict[str, Check]:
    """Compare a run of this directory with the live version; its latency is 1.5 times as long."""
    accuracy = vs_live_version.at_least(vs_live_version.NOT_WORSE_THAN_LIVE_CHECK, 1, 0.05)
    monkeypatch.setattr(vs_live_version, "load_variant", lambda *_: None)
    monkeypatch.setattr(vs_live_version, "_accuracy_check", lambda *_: iter([accuracy]))
    monkeypatch.setattr(vs_live_version, "_latency_ratio", lambda *_: (1.5, ""))
    values = {"model": "m", "derived_from": None, "run_id": "another run", **config}
    fake = SimpleNamespace(
        config=SimpleNamespace(model=values["model"], derived_from=values["derived_from"]),
        run_id=values["run_id"],
        has=lambda name: (run / name).exists(),
        file=lambda name, _: run / name,
    )
    checks = vs_live_version.compare_with_live(fake, None, None, store)  # type: ignore[arg-type]
    return {check.check: check for check in checks}


ALL = {
    vs_live_version.NOT_WORSE_THAN_LIVE_CHECK,
    vs_live_version.LATENCY_CHECK,
    vs_live_version.SIZE_CHECK,
}


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Directories of a store, and of a run whose graph has 500 bytes."""
    for name in ("store", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "model.onnx").write_bytes(b"." * 500)
    return tmp_path / "store", tmp_path / "run"


def test_sizes_include_weights_in_their_own_file(
    monkeypatch: pytest.MonkeyPatch, places: tuple[Path, Path]
) -> None:
    """The run's, and then also the live version's."""
    root, run = places
    store = Store(root)
    checks = compare(monkeypatch, store, run)
    assert checks.keys() == ALL
    assert checks[vs_live_version.LATENCY_CHECK].value == 1.5
    ratios = [checks[vs_live_version.SIZE_CHECK].value]
    for folder in (run, root):
        (folder / WEIGHTS_FILE).write_bytes(b"." * 700)
        ratios.append(compare(monkeypatch, store, run)[vs_live_version.SIZE_CHECK].value)
    assert ratios == pytest.approx([500 / 300, 1200 / 300, 1200 / 1000])


@pytest.mark.parametrize(
    ("config", "compared"),
    [
        ({"derived_from": SimpleNamespace(digest="live digest")}, ALL - {"not_worse_than_live"}),
        ({"derived_from": SimpleNamespace(digest="another")}, ALL),
        ({"derived_from": SimpleNamespace(digest="a third")}, ALL),
        ({"model": "unknown"}, set()),
        ({"run_id": "live run"}, set()),
    ],
)
def test_a_run_is_compared_with_versions_of_other_runs(
    monkeypatch: pytest.MonkeyPatch,
    places: tuple[Path, Path],
    config: dict[str, Any],
    compared: set[str],
) -> None:
    """For a run that retrains the live version, the gate of retraining compares the accuracy."""
    root, run = places
    assert compare(monkeypatch, Store(root), run, **config).keys() == compared


def test_without_a_published_version_there_is_nothing_to_compare(
    monkeypatch: pytest.MonkeyPatch, places: tuple[Path, Path]
) -> None:
    root, run = places
    assert compare(monkeypatch, Store(root, "built-in"), run) == {}
    store = Store(root)
    store.root = root / "missing"
    assert compare(monkeypatch, store, run) == {}
