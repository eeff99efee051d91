"""`python -m service tune MODEL`: find this machine's best settings for a model, and leave them where `serve` looks."""

from pathlib import Path
from typing import Final, get_args

import click

from model_store.host_cache import default_host_cache, open_host_cache
from model_store.manifest import now
from model_store.store import BUILTIN_ROOT, DEFAULT_ROOT, ModelStore
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
    Number,
    OutputFile,
    plain_errors,
    require_extra,
)
from service.loadtest.engine import EngineMeasurement, Setting, measure_setting
from service.loadtest.errors import MeasurementError
from service.loadtest.search import (
    FINALISTS,
    Chosen,
    Curve,
    TuneGoal,
    choose,
    describe,
    list_precisions,
    list_settings,
    search,
    summarise,
)

LARGEST_BATCH: Final = 32
STEADY: Final = 1.2
MOST_SECONDS: Final = 3600.0
DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.option(
    "--p99",
    "p99_ms",
    type=Number(1e3 * MOST_SECONDS),
    metavar="MS",
    help="The latency, in milliseconds, that 99 of 100 images may not pass under full load.  [default: any]",
)
@click.option(
    "--accuracy-budget",
    "budget",
    type=Number(100, least=0),
    metavar="POINTS",
    help="Points of top-1 that a faster precision may lose, by the version's own gates; 0 for none.  "
    "[default: what its gates allowed when it was published]",
)
@click.option(
    "--mode",
    type=click.Choice(get_args(Mode)),
    default="throughput",
    show_default=True,
    help="throughput: most images a second. latency: a lone client's answer first, as one run with all threads gives it.",
)
@click.option(
    "--max-batch-size",
    "largest",
    type=click.IntRange(1, 4096),
    default=LARGEST_BATCH,
    show_default=True,
    help="The largest batch to try; the model's own bound counts where it is lower.",
)
@click.option(
    "--seconds",
    type=Number(MOST_SECONDS),
    default=1.5,
    show_default=True,
    help="How long each setting works; longer where a batch is slow.",
)
@click.option(
    "--store",
    type=DIRECTORY,
    default=DEFAULT_ROOT,
    show_default=True,
    envvar="SERVICE_STORE",
    help="Where the model is.",
)
@click.option(
    "--cache",
    type=DIRECTORY,
    default=default_host_cache,
    envvar="SERVICE_CACHE",
    help="Where the choice goes; the same for `serve`.  [default: $XDG_CACHE_HOME/resident, or ~/.cache/resident]",
)
@click.option(
    "--picture",
    type=OutputFile(*PICTURE_SUFFIXES),
    help="Where the curve is drawn: .svg, .png or .pdf.  [default: beside the choice]",
)
def tune(
    model: str,
    p99_ms: float | None,
    budget: float | None,
    mode: Mode,
    largest: int,
    seconds: float,
    store: Path,
    cache: Path,
    picture: Path | None,
) -> None:
    """Measure instances, threads, batch sizes and precisions of MODEL (or MODEL/VERSION) on this machine, and choose.

    Each works on the service's own engine under full load. The choice holds for this version's files, this kind of CPU and as many
    CPUs as were allowed here: `python -m service` with the same --cache takes it, and ignores it anywhere else. Let nothing else
    run meanwhile.

    \b
    python -m service tune flowers --p99 50 --accuracy-budget 0.5
    """
    require_extra()
    with plain_errors():
        from rich.console import Console  # noqa: PLC0415  the extra is not everywhere

        from service.loadtest.display import LoadtestDisplay, tuning_table  # noqa: PLC0415
        from service.loadtest.figures import draw_tuning  # noqa: PLC0415

        display, wish, cpus = LoadtestDisplay(Console()), TuneGoal(mode, p99_ms), cpu_limit()
        open_host_cache(cache, FOLDER)  # before the measuring, not after it
        model_store = ModelStore(store, BUILTIN_ROOT)
        name, _, number = model.partition("/")
        with model_store.open(name, model_store.resolve(name, number or None)) as version:
            precisions = list_precisions(
                version, budget, lambda left_out, why: display.say(f"{left_out} is left out: {why}")
            )
            curves = list_settings(precisions, cpus, min(largest, version.manifest.max_batch_size))
            display.say(
                f"{version}: {', '.join(precisions)} on {cpus} CPUs, {seconds:g} s a setting"
            )
            done = 0
            throughputs: dict[Setting, list[float]] = {}

            def measure(setting: Setting) -> EngineMeasurement:
                nonlocal done
                display.advance(done, describe(setting))
                done += 1
                found = measure_setting(model_store, name, version.number, setting, seconds)
                throughputs.setdefault(setting, []).append(found.images_per_second)
                return found

            def report(curve: Curve) -> None:
                nonlocal done
                done += len(curves[0]) - len(curve.points)  # those that were not worth it
                display.say(f"{curve.name}: {summarise(curve)}")

            with display.progress("measuring", sum(map(len, curves)) + len(curves) + FINALISTS):
                measured = search(curves, measure, wish, report)
            chosen = choose(measured, wish)
            display.show(tuning_table(measured, chosen.point if chosen else None, p99_ms))
            if (apart := max(max(found) / min(found) for found in throughputs.values())) > STEADY:
                display.say(
                    f"the same setting, measured twice, gave up to {apart:.1f} times as much: something else was running, so these "
                    "figures say little",
                    "yellow",
                )
            if chosen is None:
                raise MeasurementError(
                    f"nothing here holds a p99 of {p99_ms:g} ms under load; nothing was written"
                )
            choice = _choice(TuningKey.of(version, cpus), wish, chosen)
            written = write_tuned_settings(cache, choice)
        display.say(f"chosen: {choice}")
        display.say(
            f"written: {written}; `python -m service` takes it where these settings are not set, as it starts on a CPU"
        )
        drawn = picture or written.with_suffix(".svg")
        draw_tuning(measured, chosen.point, p99_ms, f"{version} on {cpus} CPUs", drawn)
        display.say(f"picture: {drawn}")


def _choice(key: TuningKey, wish: TuneGoal, chosen: Chosen) -> TunedSettings:
    setting, point = chosen.point.setting, chosen.point
    return TunedSettings(
        key=key,
        mode=wish.mode,
        asked_p99_ms=wish.p99_ms,
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
