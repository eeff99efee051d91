"""The search of `tune` over measurements that are made up: what is tried, what is left out, and what is chosen."""

from collections.abc import Mapping

import numpy as np
import pytest
from colour_model import MODEL, SIZE, WEIGHTS, publish
from tiny_model import tiny_model_bytes

from model_store.manifest import Check, Precision, Variant
from model_store.store import ModelStore
from service.loadtest.engine import EngineMeasurement, Setting
from service.loadtest.search import TuneGoal, choose, list_precisions, list_settings, search


def variant(precision: Precision, lost: float | None = None, *, passed: bool = True) -> Variant:
    checks = (
        []
        if lost is None
        else [
            Check(check="top1_loss", passed=passed, value=lost, threshold=0.5, comparison="at_most")
        ]
    )
    return Variant(
        precision=precision, file=f"model.{precision}.onnx", tolerance=0.05, gate=tuple(checks)
    )


@pytest.mark.parametrize(
    ("other", "budget", "expected"),
    [
        (variant("int8", 0.3), None, None),
        (variant("int8", 0.3), 0.3, None),
        (variant("int8", 0.3), 0.1, "it loses 0.30 points, allowed are 0.1"),
        (variant("int8", -0.2), 0.0, None),
        (variant("int8", 2.0, passed=False), 5.0, "its gate top1_loss failed"),
        (variant("int8"), 1.0, "its manifest does not say what it loses"),
        (variant("int8"), None, None),
        (variant("bf16", 0.0), 1.0, "it needs a GPU"),
    ],
)
def test_precisions_stay_inside_the_budget(
    store: ModelStore, other: Variant, budget: float | None, expected: str | None
) -> None:
    """A variant is tried where its own gates hold and it loses no more than the budget; what loses an unknown amount is not."""
    publish(store, others={other: tiny_model_bytes(SIZE, SIZE, WEIGHTS)})
    reasons: dict[Precision, str] = {}
    with store.open(MODEL, 1) as version:
        precisions = list_precisions(version, budget, reasons.__setitem__)
    assert precisions == ["fp32"] + [other.precision] * (expected is None)
    assert reasons == ({other.precision: expected} if expected else {})


def test_precision_that_does_not_hold_here_is_left_out(store: ModelStore) -> None:
    """A variant that fails its golden proof on this machine is not measured, whatever its gates said elsewhere."""
    publish(
        store, others={variant("int8", 0.0): tiny_model_bytes(SIZE, SIZE, WEIGHTS[::-1].copy())}
    )
    reasons: dict[Precision, str] = {}
    with store.open(MODEL, 1) as version:
        assert list_precisions(version, None, reasons.__setitem__) == ["fp32"]
    assert "differ from training's" in reasons["int8"]


@pytest.mark.parametrize(
    ("cpus", "largest", "shared", "batches"),
    [
        (1, 1, [(1, 1)], [1]),
        (2, 32, [(2, 1), (1, 2)], [1, 2, 4, 8, 16, 32]),
        (6, 5, [(6, 1), (3, 2), (2, 3), (1, 6)], [1, 2, 4, 5]),
    ],
)
def test_settings_share_the_cpus_evenly(
    cpus: int, largest: int, shared: list[tuple[int, int]], batches: list[int]
) -> None:
    """Every way to give each instance as many threads, first with one client, then with batches up to the largest."""
    curves = list_settings(["fp32"], cpus, largest)
    assert [(curve[0].instances, curve[0].intra_op_num_threads) for curve in curves] == shared
    for curve in curves:
        assert curve[0].in_flight == 1
        assert [setting.max_batch_size for setting in curve[1:]] == batches
        assert {setting.in_flight for setting in curve[1:]} == {
            2 * curve[0].instances * size for size in batches
        }


class Machine:
    """Measures as if a batch took so many seconds, plus so many an image, by instances and threads."""

    def __init__(self, costs: Mapping[tuple[int, int], tuple[float, float]]) -> None:
        self._costs = costs
        self.measured: list[Setting] = []

    def __call__(self, setting: Setting) -> EngineMeasurement:
        self.measured.append(setting)
        fixed, each = self._costs[setting.instances, setting.intra_op_num_threads]
        run = fixed + each * setting.max_batch_size
        latency = run if setting.alone else 2 * run
        images = 100
        seconds = images * latency / setting.in_flight
        return EngineMeasurement(setting, np.full(images, latency), seconds)


TWO_BY_ONE, ONE_BY_TWO = (2, 1), (1, 2)
USUAL = {TWO_BY_ONE: (0.001, 0.010), ONE_BY_TWO: (0.001, 0.006)}
"""One thread takes 10 ms an image, two together 6 ms: several runs carry more, one run answers a lone client sooner."""


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (TuneGoal(), (TWO_BY_ONE, 4)),
        (TuneGoal("latency"), (ONE_BY_TWO, 8)),
        (TuneGoal(p99_ms=50), (TWO_BY_ONE, 2)),
        (TuneGoal(p99_ms=20), (ONE_BY_TWO, 1)),
        (TuneGoal("latency", 30), (ONE_BY_TWO, 2)),
        (TuneGoal(p99_ms=10), None),
    ],
)
def test_choice_follows_the_wish(
    wish: TuneGoal, expected: tuple[tuple[int, int], int] | None
) -> None:
    """The most images a second, a lone client first, or what a p99 leaves room for; no batch that gains next to nothing."""
    chosen = choose(search(list_settings(["fp32"], 2, 32), Machine(USUAL), wish), wish)
    setting = chosen.point.setting if chosen else None
    assert (
        setting and ((setting.instances, setting.intra_op_num_threads), setting.max_batch_size)
    ) == expected


def test_larger_batches_are_not_tried_where_they_gain_nothing_or_take_too_long() -> None:
    """Two sizes without a gain end a curve, and so does a batch whose median is past the wished p99."""
    flat = Machine({TWO_BY_ONE: (0.0, 0.01), ONE_BY_TWO: (0.0, 0.01)})
    curves = search(list_settings(["fp32"], 2, 32), flat, TuneGoal())
    assert [[point.setting.max_batch_size for point in curve.loaded] for curve in curves] == [
        [1, 2, 4],
        [1, 2, 4],
    ]
    curves = search(list_settings(["fp32"], 2, 32), Machine(USUAL), TuneGoal(p99_ms=25))
    assert [[point.setting.max_batch_size for point in curve.loaded] for curve in curves] == [
        [1, 2],
        [1, 2],
    ]


def test_best_points_are_measured_twice_and_count_together() -> None:
    """A lone client on every curve and the finalists, in turn after everything else."""
    machine = Machine(USUAL)
    curves = search(list_settings(["fp32"], 2, 4), machine, TuneGoal())
    twice = {setting for setting in machine.measured if machine.measured.count(setting) == 2}
    assert {curve.alone.setting for curve in curves} < twice
    for curve in curves:
        for point in curve.points:
            assert len(point.latencies) == (200 if point.setting in twice else 100)
            assert point.images_per_second == pytest.approx(
                machine(point.setting).images_per_second
            )


def test_point_that_was_measured_once_is_not_chosen_for_its_luck() -> None:
    """Where the machine slows down, and the best points with it, their place is not taken by one that met it before."""

    class Tiring(Machine):
        def __call__(self, setting: Setting) -> EngineMeasurement:
            again = setting in self.measured
            found = super().__call__(setting)
            return (
                EngineMeasurement(setting, found.latencies * 1.3, found.seconds * 1.3)
                if again
                else found
            )

    chosen = choose(search(list_settings(["fp32"], 2, 32), Tiring(USUAL), TuneGoal()), TuneGoal())
    assert chosen
    assert (chosen.point.times, chosen.point.setting.max_batch_size) == (2, 4)
