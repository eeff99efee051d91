"""The search of `tune`: which settings are tried, which are not worth it, and which one is chosen."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from model_store.manifest import Precision, Variant
from model_store.session import SessionOptions
from model_store.version import Version
from service.engine.tuned_settings import Mode
from service.engine.variant_selection import select_variant
from service.loadtest.engine import EngineMeasurement, Setting

LOSS_CHECK: Final = "top1_loss"
GAIN: Final = 1.02
"""Times the throughput: for less no batch is larger, and of settings within it the one with the better latency is taken."""
PATIENCE: Final = 2  # batch sizes in a row that gain nothing
FINALISTS: Final = 4

Measure = Callable[[Setting], EngineMeasurement]


@dataclass(frozen=True)
class Curve:
    """One precision, so many instances of so many threads: one client alone, then batches that grow."""

    alone: EngineMeasurement
    loaded: tuple[EngineMeasurement, ...]

    @property
    def points(self) -> tuple[EngineMeasurement, ...]:
        """All of them."""
        return (self.alone, *self.loaded)

    @property
    def name(self) -> str:
        """As a person reads it."""
        return self.name_of(self.alone.setting)

    @staticmethod
    def name_of(setting: Setting) -> str:
        """The name of a setting's curve."""
        threads = f"{setting.intra_op_num_threads} thread{'s' if setting.intra_op_num_threads > 1 else ''}"
        return f"{setting.precision}, {setting.instances} x {threads}"


@dataclass(frozen=True)
class Chosen:
    """A point and the curve that it lies on."""

    curve: Curve
    point: EngineMeasurement


@dataclass(frozen=True)
class TuneGoal:
    """What is wanted: images a second, or a lone client's latency first; either with at most so many milliseconds at p99."""

    mode: Mode = "throughput"
    p99_ms: float | None = None


def list_precisions(
    version: Version,
    budget_points: float | None,
    leave_out: Callable[[Precision, str], None] = lambda *_: None,
) -> list[Precision]:
    """The precisions to try; `leave_out` is told why of the others.

    Those that hold here and whose gates passed: with a budget of points of top-1, only those that lose no more by their gate.
    Raises ModelStoreError where fp32 itself does not hold.
    """
    base = select_variant(version, "fp32", SessionOptions()).precision
    precisions = [base]
    for variant in version.manifest.variants:
        if variant.precision == base:
            continue
        reason = _over_budget(variant, budget_points)
        if reason is None:
            found = select_variant(version, variant.precision, SessionOptions())
            reason = found.note
        if reason is None:
            precisions.append(variant.precision)
        else:
            leave_out(variant.precision, reason)
    return precisions


def list_settings(
    precisions: Sequence[Precision], cpus: int, largest_batch: int
) -> list[list[Setting]]:
    """For each curve its settings: every way to share the CPUs evenly, one client, then batches that double."""
    batches = [
        1 << power for power in range(largest_batch.bit_length()) if 1 << power < largest_batch
    ] + [largest_batch]
    return [
        [Setting(precision, cpus // threads, threads, 1, alone=True)]
        + [Setting(precision, cpus // threads, threads, size) for size in batches]
        for precision in precisions
        for threads in range(1, cpus + 1)
        if cpus % threads == 0
    ]


def search(
    curves: Sequence[Sequence[Setting]],
    measure: Measure,
    wish: TuneGoal,
    report: Callable[[Curve], None] = lambda _: None,
) -> list[Curve]:
    """Measure all curves, then each one's lone client and the best points once more, and `report` each curve in between.

    What is measured again is measured in turn, so that whatever else the machine does meets each alike.
    """
    measured = []
    for settings in curves:
        measured.append(_measure_curve(settings, measure, wish))
        report(measured[-1])
    finalists = [curve.alone for curve in measured] + list_finalists(measured, wish)
    again = {point.setting: measure(point.setting) for point in finalists}

    def both(point: EngineMeasurement) -> EngineMeasurement:
        return point.plus(again[point.setting]) if point.setting in again else point

    return [Curve(both(curve.alone), tuple(map(both, curve.loaded))) for curve in measured]


def _measure_curve(settings: Sequence[Setting], measure: Measure, wish: TuneGoal) -> Curve:
    """Larger batches until they gain nothing, or take too long for the wish."""
    alone, *growing = settings
    first = measure(alone)
    loaded: list[EngineMeasurement] = []
    idle = 0
    for setting in growing:
        best = max((point.images_per_second for point in loaded), default=0.0)
        loaded.append(measure(setting))
        idle = 0 if loaded[-1].images_per_second >= GAIN * best else idle + 1
        if idle == PATIENCE or (wish.p99_ms and loaded[-1].percentile_ms(50) > wish.p99_ms):
            break
    return Curve(first, tuple(loaded))


def list_finalists(curves: Sequence[Curve], wish: TuneGoal) -> list[EngineMeasurement]:
    """The best points, best first; empty where none holds the wish."""
    return _best_first(curves, wish)[:FINALISTS]


def choose(curves: Sequence[Curve], wish: TuneGoal) -> Chosen | None:
    """The best point: of those with nearly the best throughput the one with the best p99. None where no point holds the wish.

    A point that was measured once is taken only where none that was measured more often holds it: its figures may be luck.
    """
    points = _best_first(curves, wish)
    if not points:
        return None
    often = max(point.times for point in points)
    sure = [point for point in points if point.times == often]
    close = [point for point in sure if GAIN * point.images_per_second >= sure[0].images_per_second]
    best = min(close, key=lambda point: point.percentile_ms(99))
    return next(
        Chosen(curve, best) for curve in curves if any(point is best for point in curve.loaded)
    )


def describe(setting: Setting) -> str:
    """A setting in words."""
    return f"{Curve.name_of(setting)}, {'one client' if setting.alone else f'batches of {setting.max_batch_size}'}"


def summarise(curve: Curve) -> str:
    """A curve in words."""
    best = max(curve.loaded, key=lambda point: point.images_per_second)
    return (
        f"one client {curve.alone.percentile_ms(50):.2f} ms; at most {best.images_per_second:,.1f} images/s, "
        f"in batches of {best.setting.max_batch_size}"
    )


def _best_first(curves: Sequence[Curve], wish: TuneGoal) -> list[EngineMeasurement]:
    holding = list(_holding(curves, wish))
    if wish.mode == "latency" and holding:
        fastest = min(
            (curve for curve, _ in holding), key=lambda curve: curve.alone.percentile_ms(50)
        )
        holding = [(curve, point) for curve, point in holding if curve is fastest]
    return sorted((point for _, point in holding), key=lambda point: -point.images_per_second)


def _holding(curves: Sequence[Curve], wish: TuneGoal) -> Iterator[tuple[Curve, EngineMeasurement]]:
    for curve in curves:
        for point in curve.loaded:
            if wish.p99_ms is None or point.percentile_ms(99) <= wish.p99_ms:
                yield curve, point


def _over_budget(variant: Variant, budget_points: float | None) -> str | None:
    if budget_points is None:
        return None
    lost = next((check.value for check in variant.gate if check.check == LOSS_CHECK), None)
    if lost is None:
        return "its manifest does not say what it loses"
    return (
        f"it loses {lost:.2f} points, allowed are {budget_points:g}"
        if lost > budget_points
        else None
    )
