"""`python -m service tune MODEL`: find a model's best settings on this machine and save them."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import click

from model_store.command_line import describe_path
from model_store.host_cache import default_host_cache, open_host_cache
from model_store.manifest import now
from model_store.open_store import StoreLocation, StoreLocationType, open_store
from model_store.store import BUILTIN_ROOT, DEFAULT_ROOT
from service.engine.tuned_settings import (
    FOLDER,
    Mode,
    TunedPerformance,
    TunedSettings,
    TuningKey,
    write_tuned_settings,
)
from service.host.cpu_limit import cpu_limit
from service.loadtest.command_options import (
    PICTURE_SUFFIXES,
    BoundedNumber,
    OutputFile,
    errors_in_one_line,
    require_extra,
)
from service.loadtest.engine_measurement import EngineMeasurement, EngineSetting, measure_setting
from service.loadtest.errors import MeasurementError
from service.loadtest.settings_search import (
    FINALISTS,
    ChosenPoint,
    Curve,
    MeasureSetting,
    TuneGoal,
    choose_point,
    describe_curve,
    describe_setting,
    list_curves,
    list_precisions,
    measure_curves,
)
from service.loadtest.worker_measurement import (
    TunedModel,
    choose_workers,
    list_worker_counts,
    measure_workers,
)

if TYPE_CHECKING:
    from service.loadtest.terminal import LoadtestTerminal  # needs the extra

DEFAULT_LARGEST_BATCH: Final = 32
DEFAULT_MAX_DIFFERENCE: Final = 20
"""Percent by which two measurements of a setting may differ."""
MAX_SECONDS: Final = 3600.0
DIRECTORY: Final = click.Path(file_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.option(
    "--p99",
    "p99_ms",
    type=BoundedNumber(1e3 * MAX_SECONDS),
    metavar="MS",
    help="The most milliseconds of p99 latency under full load.  [default: any]",
)
@click.option(
    "--accuracy-budget",
    "budget",
    type=BoundedNumber(100, least=0),
    metavar="POINTS",
    help="Percentage points of top-1 that a faster precision may lose, by the version's own gates. "
    " [default: what its gates allowed when it was published]",
)
@click.option(
    "--mode",
    type=click.Choice(get_args(Mode)),
    default="throughput",
    show_default=True,
    help="throughput: most images per second. latency: first the latency of a lone client.",
)
@click.option(
    "--max-batch-size",
    "largest",
    type=click.IntRange(1, 4096),
    default=DEFAULT_LARGEST_BATCH,
    show_default=True,
    help="The largest batch to try, at most the model's own maximum.",
)
@click.option(
    "--seconds",
    type=BoundedNumber(MAX_SECONDS),
    default=1.5,
    show_default=True,
    help="Seconds to measure each setting; longer if batches are slow.",
)
@click.option(
    "--max-difference",
    type=BoundedNumber(1e6, least=0),
    metavar="PERCENT",
    default=DEFAULT_MAX_DIFFERENCE,
    show_default=True,
    help="Store nothing if two measurements of the same setting differ by more.",
)
@click.option(
    "--store",
    type=StoreLocationType(),
    default=DEFAULT_ROOT,
    show_default=True,
    envvar="SERVICE_STORE",
    help="The model store: a directory, or a URL like s3://bucket/models.",
)
@click.option(
    "--cache",
    type=DIRECTORY,
    default=default_host_cache,
    envvar="SERVICE_CACHE",
    show_default=describe_path(default_host_cache()),
    help="The directory for the result; use the same one for `serve`.",
)
@click.option(
    "--workers/--no-workers",
    default=True,
    show_default=True,
    help="Then also measure the service over HTTP with 1, 2, 4 … workers, up to one per CPU.",
)
@click.option(
    "--picture",
    type=OutputFile(*PICTURE_SUFFIXES),
    help="Write the chart to this .svg, .png or .pdf file.  [default: beside the result]",
)
def tune(
    model: str,
    p99_ms: float | None,
    budget: float | None,
    mode: Mode,
    largest: int,
    seconds: float,
    max_difference: float,
    store: StoreLocation,
    cache: Path,
    workers: bool,  # noqa: FBT001  as click passes it
    picture: Path | None,
) -> None:
    """Find the best instances, threads, batch size and precision of MODEL on this machine.

    \b
    python -m service tune flowers --p99 50 --accuracy-budget 0.5

    MODEL is a name, or a name and version like flowers/3. Each setting runs on the service's own
    engine under full load, so nothing else should run meanwhile. `python -m service` with the same
    --cache uses the result. It holds for these model files, this kind of CPU, this number of CPUs
    and this version of ONNX Runtime, and is ignored elsewhere. The number of workers is only
    printed.
    """
    require_extra()
    with errors_in_one_line():
        from rich.console import Console  # noqa: PLC0415  only with the extra

        from service.loadtest.charts import draw_tuning  # noqa: PLC0415
        from service.loadtest.terminal import LoadtestTerminal, tuning_table  # noqa: PLC0415

        terminal, goal, cpus = LoadtestTerminal(Console()), TuneGoal(mode, p99_ms), cpu_limit()
        open_host_cache(cache, FOLDER)  # fails before the measurement, not after it
        model_store = open_store(store, BUILTIN_ROOT)
        name, _, number = model.partition("/")
        with model_store.open(name, model_store.resolve(name, number or None)) as version:
            precisions = list_precisions(
                version,
                budget,
                lambda precision, reason: terminal.print(f"{precision} is left out: {reason}"),
            )
            curves = list_curves(precisions, cpus, min(largest, version.manifest.max_batch_size))
            terminal.print(
                f"{version}: {', '.join(precisions)} on {cpus} CPUs, {seconds:g} s per setting"
            )
            throughputs: dict[EngineSetting, list[float]] = {}

            def measure(setting: EngineSetting) -> EngineMeasurement:
                measurement = measure_setting(model_store, name, version.number, setting, seconds)
                throughputs.setdefault(setting, []).append(measurement.images_per_second)
                return measurement

            measured = _measure_with_progress(terminal, curves, measure, goal)
            chosen = choose_point(measured, goal)
            terminal.print_table(tuning_table(measured, chosen.point if chosen else None, p99_ms))
            difference = largest_difference(throughputs.values())
            if difference > max_difference:
                raise MeasurementError(
                    f"two measurements of the same setting differ by {difference:.0f} %, so the "
                    "choice means little; nothing was written. Stop other programs, or measure "
                    "longer with --seconds. To store the choice nevertheless, give "
                    f"--max-difference {math.ceil(difference)}"
                )
            if chosen is None:
                raise MeasurementError(
                    f"no setting has a p99 of at most {p99_ms:g} ms under full load (--p99); "
                    "nothing was written"
                )
            tuned = _tuned_settings(TuningKey.of(version, cpus), goal, chosen)
            path = write_tuned_settings(cache, tuned)
            side = min(version.manifest.input.height, version.manifest.input.width)
            in_flight = chosen.point.setting.in_flight
            tuned_model = TunedModel(store, cache, name, version.number, side, in_flight)
        chart = picture or path.with_suffix(".svg")
        draw_tuning(measured, chosen.point, p99_ms, f"{version} on {cpus} CPUs", chart)
        terminal.print(f"chosen: {tuned}")
        terminal.print(f"written: {path}")
        terminal.print(f"chart: {chart}")
        count = 1
        if workers and cpus > 1 and mode == "throughput":
            count = _find_workers(terminal, tuned_model, cpus, seconds)
        option = f" --workers {count}" if count > 1 else ""
        terminal.print(f"Use them: python -m service --store {store} --cache {cache}{option}")


def _find_workers(
    terminal: "LoadtestTerminal", tuned: TunedModel, cpus: int, seconds: float
) -> int:
    """Measure and print the throughput. Returns the number of workers to use."""
    measured = measure_workers(tuned, list_worker_counts(cpus), seconds)
    for each in measured:
        terminal.print(str(each))
    return choose_workers(measured).workers


def largest_difference(repeated: Iterable[Sequence[float]]) -> float:
    """By how many percent the measurements of a setting differ at most."""
    return 100 * (max(max(values) / min(values) for values in repeated) - 1)


def _measure_with_progress(
    terminal: "LoadtestTerminal",
    curves: Sequence[Sequence[EngineSetting]],
    measure: MeasureSetting,
    goal: TuneGoal,
) -> list[Curve]:
    completed = 0

    def measure_and_count(setting: EngineSetting) -> EngineMeasurement:
        nonlocal completed
        terminal.advance(completed, describe_setting(setting))
        completed += 1
        return measure(setting)

    def report_curve(curve: Curve) -> None:
        nonlocal completed
        completed += len(curves[0]) - len(curve.points)  # sizes that were skipped
        terminal.print(f"{curve.name}: {describe_curve(curve)}")

    with terminal.progress("measuring", sum(map(len, curves)) + len(curves) + FINALISTS):
        return measure_curves(curves, measure_and_count, goal, report_curve)


def _tuned_settings(key: TuningKey, goal: TuneGoal, chosen: ChosenPoint) -> TunedSettings:
    setting, point = chosen.point.setting, chosen.point
    return TunedSettings(
        key=key,
        mode=goal.mode,
        asked_p99_ms=goal.p99_ms,
        instances=setting.instances,
        intra_op_num_threads=setting.intra_op_num_threads,
        max_batch_size=setting.max_batch_size,
        precision=setting.precision,
        measured=TunedPerformance(
            images_per_second=round(point.images_per_second, 2),
            p50_ms=round(point.percentile_ms(50), 3),
            p99_ms=round(point.percentile_ms(99), 3),
            in_flight=setting.in_flight,
            alone_ms=round(chosen.curve.alone.percentile_ms(50), 3),
        ),
        measured_at=now(),
    )
