"""The search of `tune` on simulated measurements."""

from collections.abc import Mapping

import numpy as np
import pytest
from colour_model import MODEL, SIZE, WEIGHTS, publish
from tiny_model import tiny_model_bytes

from model_store.manifest import Check, Precision, Variant
from model_store.store import ModelStore
from service.loadtest.engine_measurement import EngineMeasurement, EngineSetting
from service.loadtest.settings_search import (
    TuneGoal,
    choose_point,
    list_curves,
    list_precisions,
    measure_curves,
)


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
        (variant("int8", 0.3), 0.1, "it loses 0.30 points of top-1, allowed are 0.1"),
        (variant("int8", -0.2), 0.0, None),
        (variant("int8", 2.0, passed=False), 5.0, "its gate top1_loss failed"),
        (variant("int8"), 1.0, "its manifest has no top1_loss check"),
        (variant("int8"), None, None),
        (variant("bf16", 0.0), 1.0, "it needs a GPU"),
    ],
)
def test_precisions_stay_within_the_accuracy_budget(
    store: ModelStore, other: Variant, budget: float | None, expected: str | None
) -> None:
    """A variant is measured if its gates passed and its known loss is within the budget."""
    publish(store, others={other: tiny_model_bytes(SIZE, SIZE, WEIGHTS)})
    reasons: dict[Precision, str] = {}
    with store.open(MODEL, 1) as version:
        precisions = list_precisions(version, budget, reasons.__setitem__)
    assert precisions == ["fp32"] + [other.precision] * (expected is None)
    assert reasons == ({other.precision: expected} if expected else {})


def test_precision_that_fails_its_proof_is_left_out(store: ModelStore) -> None:
    """Its passed gates do not matter."""
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
    """Each even split is measured with one client, then with batches up to the largest."""
    curves = list_curves(["fp32"], cpus, largest)
    assert [(curve[0].instances, curve[0].intra_op_num_threads) for curve in curves] == shared
    for curve in curves:
        assert curve[0].in_flight == 1
        assert [setting.max_batch_size for setting in curve[1:]] == batches
        assert {setting.in_flight for setting in curve[1:]} == {
            2 * curve[0].instances * size for size in batches
        }


class Machine:
    """Simulates runs that cost fixed seconds plus seconds per image, by instances and threads."""

    def __init__(self, costs: Mapping[tuple[int, int], tuple[float, float]]) -> None:
        self._costs = costs
        self.measured: list[EngineSetting] = []

    def __call__(self, setting: EngineSetting) -> EngineMeasurement:
        self.measured.append(setting)
        fixed, each = self._costs[setting.instances, setting.intra_op_num_threads]
        run = fixed + each * setting.max_batch_size
        latency = run if setting.alone else 2 * run
        images = 100
        seconds = images * latency / setting.in_flight
        return EngineMeasurement(setting, np.full(images, latency), seconds)


TWO_BY_ONE, ONE_BY_TWO = (2, 1), (1, 2)
USUAL = {TWO_BY_ONE: (0.001, 0.010), ONE_BY_TWO: (0.001, 0.006)}
"""10 ms per image with one thread, 6 ms with two: two instances have the higher throughput, one
instance with two threads the lower latency."""


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        (TuneGoal(), (TWO_BY_ONE, 4)),
        (TuneGoal("latency"), (ONE_BY_TWO, 8)),
        (TuneGoal(p99_ms=50), (TWO_BY_ONE, 2)),
        (TuneGoal(p99_ms=20), (ONE_BY_TWO, 1)),
        (TuneGoal("latency", 30), (ONE_BY_TWO, 2)),
        (TuneGoal(p99_ms=10), None),
    ],
)
def test_choice_follows_the_goal(
    goal: TuneGoal, expected: tuple[tuple[int, int], int] | None
) -> None:
    """Goals are throughput, the latency of a lone client, or a p99; batches without gain lose."""
    chosen = choose_point(measure_curves(list_curves(["fp32"], 2, 32), Machine(USUAL), goal), goal)
    setting = chosen.point.setting if chosen else None
    assert (
        setting and ((setting.instances, setting.intra_op_num_threads), setting.max_batch_size)
    ) == expected


def test_larger_batches_are_skipped_without_gain_or_beyond_the_p99() -> None:
    """Two sizes without gain end a curve, and so does a median above the p99 goal."""
    flat = Machine({TWO_BY_ONE: (0.0, 0.01), ONE_BY_TWO: (0.0, 0.01)})
    curves = measure_curves(list_curves(["fp32"], 2, 32), flat, TuneGoal())
    assert [[point.setting.max_batch_size for point in curve.loaded] for curve in curves] == [
        [1, 2, 4],
        [1, 2, 4],
    ]
    curves = measure_curves(list_curves(["fp32"], 2, 32), Machine(USUAL), TuneGoal(p99_ms=25))
    assert [[point.setting.max_batch_size for point in curve.loaded] for curve in curves] == [
        [1, 2],
        [1, 2],
    ]


def test_best_points_are_measured_twice_and_combined() -> None:
    """The lone client of every curve and the finalists are measured again at the end."""
    machine = Machine(USUAL)
    curves = measure_curves(list_curves(["fp32"], 2, 4), machine, TuneGoal())
    twice = {setting for setting in machine.measured if machine.measured.count(setting) == 2}
    assert {curve.alone.setting for curve in curves} < twice
    for curve in curves:
        for point in curve.points:
            assert len(point.latencies) == (200 if point.setting in twice else 100)
            assert point.images_per_second == pytest.approx(
                machine(point.setting).images_per_second
            )


def test_point_measured_twice_wins_over_a_lucky_point_measured_once() -> None:
    """A machine that slows down during the second measurements does not change the choice."""

    class SlowingMachine(Machine):
        def __call__(self, setting: EngineSetting) -> EngineMeasurement:
            is_second = setting in self.measured
            measurement = super().__call__(setting)
            return (
                EngineMeasurement(setting, measurement.latencies * 1.3, measurement.seconds * 1.3)
                if is_second
                else measurement
            )

    chosen = choose_point(
        measure_curves(list_curves(["fp32"], 2, 32), SlowingMachine(USUAL), TuneGoal()), TuneGoal()
    )
    assert chosen
    assert (chosen.point.times, chosen.point.setting.max_batch_size) == (2, 4)
