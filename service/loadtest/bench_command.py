"""`python -m service bench URL`: load a server and report throughput, latency and errors."""

import resource
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click
import orjson
import uvloop

from service.loadtest.command_options import (
    PICTURE_SUFFIXES,
    BoundedNumber,
    OutputFile,
    errors_in_one_line,
    require_extra,
)
from service.loadtest.errors import MeasurementError
from service.loadtest.load_generator import Load, Samples, run_load
from service.loadtest.load_report import LoadReport, make_report
from service.loadtest.target import (
    SampleImage,
    Target,
    builtin_image,
    check_target,
    fetch_input_side,
    make_requests,
    parse_target,
    read_images,
)

CLOSED_LOOP_CONNECTIONS: Final = 16
OPEN_LOOP_CONNECTIONS: Final = 1000
OTHER_OPEN_FILES: Final = 64
MAX_SECONDS: Final = 86_400.0
MAX_RATE: Final = 100_000.0
MAX_SENT_LATE: Final = 0.01
"""A larger share of requests that are sent late gets a warning."""


def _parse_headers(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    headers = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip() or not text.isprintable():
            raise click.BadParameter(f"expected NAME: VALUE, got {text!r}")
        headers[name.strip()] = value.strip()
    return headers


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("url")
@click.option(
    "--model",
    help="The model, if URL has no path.  [default: the server's default model]",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="An image or a folder of images to send; can be repeated.  "
    "[default: an image of the built-in model]",
)
@click.option(
    "--images-per-request",
    type=click.IntRange(1, 4096),
    default=1,
    show_default=True,
    help="Several images are sent as a multipart form.",
)
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    help="Clients in a closed loop; with --rate the most connections at once.  "
    f"[default: {CLOSED_LOOP_CONNECTIONS}; {OPEN_LOOP_CONNECTIONS} with --rate]",
)
@click.option(
    "--rate",
    type=BoundedNumber(MAX_RATE),
    help="Requests per second in an open loop, at random moments (Poisson). "
    "Latency counts from when a request was due.",
)
@click.option(
    "--duration",
    type=BoundedNumber(MAX_SECONDS),
    default=10.0,
    show_default=True,
    help="Seconds to measure.",
)
@click.option(
    "--warm-up",
    type=BoundedNumber(MAX_SECONDS, least=0),
    default=1.0,
    show_default=True,
    help="Seconds of load before the measurement.",
)
@click.option(
    "--timeout",
    type=BoundedNumber(MAX_SECONDS),
    default=30.0,
    show_default=True,
    help="Seconds until a request counts as not answered.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    callback=_parse_headers,
    metavar="NAME: VALUE",
    help="Sent with every request, like 'Authorization: Bearer …'; can be repeated.",
)
@click.option("--json", "document", type=OutputFile(), help="Write the report to this file.")
@click.option(
    "--picture",
    type=OutputFile(*PICTURE_SUFFIXES),
    default="bench.svg",
    show_default=True,
    help="Write a chart of the latency to this .svg, .png or .pdf file.",
)
def bench(
    url: str,
    model: str | None,
    images: tuple[Path, ...],
    images_per_request: int,
    connections: int | None,
    rate: float | None,
    duration: float,
    warm_up: float,
    timeout: float,
    headers: dict[str, str],
    document: Path | None,
    picture: Path,
) -> None:
    """Load the server at URL and report throughput, latency percentiles and errors.

    \b
    python -m service bench http://127.0.0.1:8000

    By default a fixed number of clients send requests one after the other (closed loop): this
    measures the throughput. With --rate requests arrive at random, whether the server keeps up or
    not (open loop): this measures the latency that users see. A URL with a path is used as it is,
    so that other servers can be measured too.

    \b
    python -m service bench http://127.0.0.1:8000 --rate 500 --duration 60
    """
    require_extra()
    with errors_in_one_line():
        from rich.console import Console  # noqa: PLC0415  only with the extra

        from service.loadtest.charts import draw_load  # noqa: PLC0415
        from service.loadtest.terminal import (  # noqa: PLC0415
            LoadtestTerminal,
            load_status,
            load_table,
        )

        terminal = LoadtestTerminal(Console())
        target = parse_target(url, model, headers)
        sent = uvloop.run(_choose_images(target, model, images, timeout))
        requests = make_requests(target, sent, images_per_request)
        uvloop.run(check_target(target, requests[0], timeout))
        most = connections or (OPEN_LOOP_CONNECTIONS if rate else CLOSED_LOOP_CONNECTIONS)
        _raise_open_file_limit(most)
        load = Load(target.address, requests, most, rate, warm_up, duration, timeout)
        images_sent = f"{_describe_images(sent)}, {images_per_request} per request"
        terminal.print(f"{target.url}: {_describe_load(load)}; {images_sent}")

        def show_progress(now: float, so_far: Samples) -> None:
            terminal.advance(min(now, duration) + warm_up, load_status(so_far, now))

        with terminal.progress("loading", warm_up + duration):
            samples = uvloop.run(run_load(load, show_progress))
        report = make_report(samples, duration)
        terminal.print_table(load_table(report, _describe_load(load)))
        if rate and report.sent_late > MAX_SENT_LATE:
            terminal.print(_describe_sent_late(report, most), "yellow")
        if document:
            settings = {
                "url": target.url,
                "sent": [image.name for image in sent],
                "images_per_request": images_per_request,
                "connections": most,
                "rate": rate,
                "warm_up_seconds": warm_up,
            }
            _write_report(document, settings, report)
        title = f"{target.url}\n{_describe_load(load)}"
        draw_load(samples, title, picture, over_time=rate is not None)
        terminal.print(f"chart: {picture}")
        if not report.answered:
            raise MeasurementError(
                "no request was answered in full"
                if report.requests
                else "no request was due: raise --duration or --rate"
            )


async def _choose_images(
    target: Target, model: str | None, paths: Sequence[Path], timeout_seconds: float
) -> list[SampleImage]:
    if paths:
        return read_images(paths)
    return [builtin_image(await fetch_input_side(target, model, timeout_seconds))]


def _raise_open_file_limit(connections: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OTHER_OPEN_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise MeasurementError(
            f"{connections} connections need {needed} open files, "
            f"but the limit is {hard} (`ulimit -Hn`): lower --connections"
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _write_report(path: Path, settings: dict[str, object], report: LoadReport) -> None:
    content = {**settings, **asdict(report), "images_per_second": report.images_per_second}
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _describe_sent_late(report: LoadReport, connections: int) -> str:
    return (
        f"{report.sent_late:.0%} of the requests were sent over 10 ms late: all {connections} "
        "connections were in use, or this program lacked CPU time. "
        "Their wait counts as latency; the server may be faster than reported."
    )


def _describe_load(load: Load) -> str:
    if load.rate is None:
        return f"closed loop, {load.connections} connections, {load.duration_seconds:g} s"
    return f"open loop, {load.rate:g} requests/s, {load.duration_seconds:g} s"


def _describe_images(images: Sequence[SampleImage]) -> str:
    if len(images) == 1:
        return f"{images[0].name} ({len(images[0].data) / 1000:,.1f} kB)"
    mean_kb = sum(len(image.data) for image in images) / len(images) / 1000
    return f"{len(images)} images of {mean_kb:,.0f} kB on average"
