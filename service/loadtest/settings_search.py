"""The search of `tune`: which settings are measured, and which one is chosen."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from model_store.manifest import Precision, Variant
from model_store.session import SessionOptions
from model_store.version import Version
from service.engine.tuned_settings import Mode
from service.engine.variant_selection import select_variant
from service.loadtest.engine_measurement import EngineMeasurement, EngineSetting

LOSS_CHECK: Final = "top1_loss"
MIN_GAIN: Final = 1.02
"""A larger batch must raise throughput by this factor; settings within it count as equal."""
MAX_SIZES_WITHOUT_GAIN: Final = 2
FINALISTS: Final = 4

MeasureSetting = Callable[[EngineSetting], EngineMeasurement]


@dataclass(frozen=True)
class Curve:
    """Measurements of one precision, number of instances and threads, by growing batch size."""

    alone: EngineMeasurement
    loaded: tuple[EngineMeasurement, ...]

    @property
    def points(self) -> tuple[EngineMeasurement, ...]:
        """All measurements, one client alone first."""
        return (self.alone, *self.loaded)

    @property
    def name(self) -> str:
        return curve_name(self.alone.setting)


@dataclass(frozen=True)
class ChosenPoint:
    curve: Curve
    point: EngineMeasurement


@dataclass(frozen=True)
class TuneGoal:
    """What to optimise: `throughput`, or `latency`: first a lone client's latency, then throughput.

    With `p99_ms`, settings with a higher p99 under full load are excluded.
    """

    mode: Mode = "throughput"
    p99_ms: float | None = None


def list_precisions(
    version: Version,
    budget_points: float | None,
    on_left_out: Callable[[Precision, str], None] = lambda *_: None,
) -> list[Precision]:
    """The precisions to measure: those whose gates passed and whose proof passes here.

    Args:
        version: The version to tune.
        budget_points: Percentage points of top-1 that a variant may lose, as its gate measured.
        on_left_out: Called with each other precision and the reason.

    Raises:
        ModelStoreError: The fp32 variant cannot be loaded or proven.
    """
    base = select_variant(version, "fp32", SessionOptions()).precision
    precisions = [base]
    for variant in version.manifest.variants:
        if variant.precision == base:
            continue
        reason = _over_budget(variant, budget_points)
        if reason is None:
            reason = select_variant(version, variant.precision, SessionOptions()).note
        if reason is None:
            precisions.append(variant.precision)
        else:
            on_left_out(variant.precision, reason)
    return precisions


def list_curves(
    precisions: Sequence[Precision], cpus: int, largest_batch: int
) -> list[list[EngineSetting]]:
    """Settings by curve. A curve is an even split of the CPUs: one client, then growing batches."""
    batches = [
        1 << power for power in range(largest_batch.bit_length()) if 1 << power < largest_batch
    ] + [largest_batch]
    return [
        [EngineSetting(precision, cpus // threads, threads, 1, alone=True)]
        + [EngineSetting(precision, cpus // threads, threads, size) for size in batches]
        for precision in precisions
        for threads in range(1, cpus + 1)
        if cpus % threads == 0
    ]


def measure_curves(
    curves: Sequence[Sequence[EngineSetting]],
    measure: MeasureSetting,
    goal: TuneGoal,
    on_curve: Callable[[Curve], None] = lambda _: None,
) -> list[Curve]:
    """Measure all curves, then their lone clients and the best points a second time.

    The second measurements are interleaved, so that other load on the machine affects all alike.
    `on_curve` is called after each curve.
    """
    measured = []
    for settings in curves:
        measured.append(_measure_curve(settings, measure, goal))
        on_curve(measured[-1])
    finalists = [curve.alone for curve in measured] + list_finalists(measured, goal)
    second = {point.setting: measure(point.setting) for point in finalists}

    def combined(point: EngineMeasurement) -> EngineMeasurement:
        return point.plus(second[point.setting]) if point.setting in second else point

    return [Curve(combined(curve.alone), tuple(map(combined, curve.loaded))) for curve in measured]


def _measure_curve(
    settings: Sequence[EngineSetting], measure: MeasureSetting, goal: TuneGoal
) -> Curve:
    """Measure growing batches until throughput stops growing or the median misses the goal."""
    alone, *growing = settings
    first = measure(alone)
    loaded: list[EngineMeasurement] = []
    sizes_without_gain = 0
    for setting in growing:
        best = max((point.images_per_second for point in loaded), default=0.0)
        loaded.append(measure(setting))
        gains = loaded[-1].images_per_second >= MIN_GAIN * best
        sizes_without_gain = 0 if gains else sizes_without_gain + 1
        too_slow = goal.p99_ms and loaded[-1].percentile_ms(50) > goal.p99_ms
        if sizes_without_gain == MAX_SIZES_WITHOUT_GAIN or too_slow:
            break
    return Curve(first, tuple(loaded))


def list_finalists(curves: Sequence[Curve], goal: TuneGoal) -> list[EngineMeasurement]:
    """The best points, best first; empty if none meets the goal."""
    return _best_first(curves, goal)[:FINALISTS]


def choose_point(curves: Sequence[Curve], goal: TuneGoal) -> ChosenPoint | None:
    """The point with the best p99 among those with nearly the best throughput.

    If any point was measured twice, points that were measured once are ignored: they may be
    outliers. None if no point meets the goal.
    """
    points = _best_first(curves, goal)
    if not points:
        return None
    times = max(point.times for point in points)
    reliable = [point for point in points if point.times == times]
    close = [
        point
        for point in reliable
        if MIN_GAIN * point.images_per_second >= reliable[0].images_per_second
    ]
    best = min(close, key=lambda point: point.percentile_ms(99))
    return next(
        ChosenPoint(curve, best) for curve in curves if any(point is best for point in curve.loaded)
    )


def curve_name(setting: EngineSetting) -> str:
    threads = setting.intra_op_num_threads
    unit = "threads" if threads > 1 else "thread"
    return f"{setting.precision}, {setting.instances} x {threads} {unit}"


def describe_setting(setting: EngineSetting) -> str:
    load = "one client" if setting.alone else f"batches of {setting.max_batch_size}"
    return f"{curve_name(setting)}, {load}"


def describe_curve(curve: Curve) -> str:
    best = max(curve.loaded, key=lambda point: point.images_per_second)
    alone_ms, batch = curve.alone.percentile_ms(50), best.setting.max_batch_size
    return (
        f"one client {alone_ms:.2f} ms; "
        f"at most {best.images_per_second:,.1f} images/s in batches of {batch}"
    )


def _best_first(curves: Sequence[Curve], goal: TuneGoal) -> list[EngineMeasurement]:
    meeting = list(_points_that_meet(goal, curves))
    if goal.mode == "latency" and meeting:
        fastest = min(
            (curve for curve, _ in meeting), key=lambda curve: curve.alone.percentile_ms(50)
        )
        meeting = [(curve, point) for curve, point in meeting if curve is fastest]
    return sorted((point for _, point in meeting), key=lambda point: -point.images_per_second)


def _points_that_meet(
    goal: TuneGoal, curves: Sequence[Curve]
) -> Iterator[tuple[Curve, EngineMeasurement]]:
    for curve in curves:
        for point in curve.loaded:
            if goal.p99_ms is None or point.percentile_ms(99) <= goal.p99_ms:
                yield curve, point


def _over_budget(variant: Variant, budget_points: float | None) -> str | None:
    if budget_points is None:
        return None
    loss = next((check.value for check in variant.gate if check.check == LOSS_CHECK), None)
    if loss is None:
        return f"its manifest has no {LOSS_CHECK} check"
    if loss > budget_points:
        return f"it loses {loss:.2f} points of top-1, allowed are {budget_points:g}"
    return None
