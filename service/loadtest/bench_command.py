"""`python -m service bench URL`: load a server and say what it carries."""

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
    Number,
    OutputFile,
    plain_errors,
    require_extra,
)
from service.loadtest.errors import MeasurementError
from service.loadtest.load import Load, run_load
from service.loadtest.load_report import report_on
from service.loadtest.target import (
    Image,
    Target,
    ask_input_side,
    built_in_image,
    make_requests,
    parse_target,
    read_images,
    try_once,
)

CLOSED_CONNECTIONS: Final = 16
OPEN_CONNECTIONS: Final = 1000
SPARE_FILES: Final = 64
MOST_SECONDS: Final = 86_400.0
MOST_RATE: Final = 100_000.0
MUCH: Final = 0.01


def _parse_headers(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    headers = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip() or not text.isprintable():
            raise click.BadParameter(f"write NAME: VALUE, not {text!r}")
        headers[name.strip()] = value.strip()
    return headers


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("url")
@click.option(
    "--model",
    help="The model to ask, where URL is a bare address.  [default: the server's default model]",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="An image to send, or a folder of them; may be repeated.  [default: one of the built-in model's]",
)
@click.option(
    "--images-per-request",
    type=click.IntRange(1, 4096),
    default=1,
    show_default=True,
    help="More than one are sent as a form.",
)
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    help=f"Clients at once, each of which asks again when it has its answer; with --rate the most connections at once.  "
    f"[default: {CLOSED_CONNECTIONS}; {OPEN_CONNECTIONS} with --rate]",
)
@click.option(
    "--rate",
    type=Number(MOST_RATE),
    help="Requests a second that arrive at random (Poisson) and wait for no answer; latency counts from the moment each was due.",
)
@click.option(
    "--duration",
    type=Number(MOST_SECONDS),
    default=10.0,
    show_default=True,
    help="Seconds that are counted.",
)
@click.option(
    "--warm-up",
    type=Number(MOST_SECONDS, least=0),
    default=1.0,
    show_default=True,
    help="Seconds before that which are not.",
)
@click.option(
    "--timeout",
    type=Number(MOST_SECONDS),
    default=30.0,
    show_default=True,
    help="Seconds after which a request counts as not answered.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    callback=_parse_headers,
    metavar="NAME: VALUE",
    help="Sent with every request, as 'Authorization: Bearer …'. May be repeated.",
)
@click.option("--json", "document", type=OutputFile(), help="Write all figures to this file.")
@click.option(
    "--picture",
    type=OutputFile(*PICTURE_SUFFIXES),
    default="bench.svg",
    show_default=True,
    help="Where the distribution of the latency is drawn: .svg, .png or .pdf.",
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
    """Load the server at URL, and show its latency by percentile, images a second, and errors by kind.

    By default so many clients ask again and again (a closed loop): what the server carries. With --rate requests come as strangers'
    do, whether it keeps up or not (an open loop): what they feel. A URL with a path is taken as it is, so other servers can be
    measured too.

    \b
    python -m service bench http://127.0.0.1:8000 --connections 32
    python -m service bench http://127.0.0.1:8000 --rate 500 --duration 60 --image PICTURES --json bench.json
    """
    require_extra()
    with plain_errors():
        from rich.console import Console  # noqa: PLC0415  the extra is not everywhere

        from service.loadtest.display import LoadtestDisplay, load_figures, load_table  # noqa: PLC0415
        from service.loadtest.figures import draw_load  # noqa: PLC0415

        display = LoadtestDisplay(Console())
        target = parse_target(url, model, headers)
        sent = uvloop.run(_choose_images(target, model, images, timeout))
        requests = make_requests(target, sent, images_per_request)
        uvloop.run(try_once(target, requests[0], timeout))
        most = connections or (OPEN_CONNECTIONS if rate else CLOSED_CONNECTIONS)
        _allow_connections(most)
        load = Load(target.address, requests, most, rate, warm_up, duration, timeout)
        display.say(
            f"{target.url}: {_describe(load)}; {_name(sent)}, {images_per_request} a request"
        )
        with display.progress("loading", warm_up + duration):
            samples = uvloop.run(
                run_load(
                    load,
                    lambda now, so_far: display.advance(
                        min(now, duration) + warm_up, load_figures(so_far, now)
                    ),
                )
            )
        report = report_on(samples, duration)
        display.show(load_table(report, _describe(load)))
        if rate and report.sent_late > MUCH:
            display.say(
                f"{report.sent_late:.0%} of the requests were sent over 10 ms after they were due: all {most} connections were "
                "taken, or this program was short of CPU. Their wait is counted; the server may be better than this.",
                "yellow",
            )
        if document:
            written = {
                "url": target.url,
                "sent": [image.name for image in sent],
                "images_per_request": images_per_request,
                "connections": most,
                "rate": rate,
                "warm_up_seconds": warm_up,
                **asdict(report),
                "images_per_second": report.images_per_second,
            }
            document.write_bytes(
                orjson.dumps(written, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
            )
        draw_load(samples, f"{target.url}\n{_describe(load)}", picture, over_time=rate is not None)
        display.say(f"picture: {picture}")
        if not report.answered:
            raise MeasurementError(
                "no request was answered in full"
                if report.requests
                else "no request was due: raise --duration or --rate"
            )


async def _choose_images(
    target: Target, model: str | None, paths: Sequence[Path], timeout_seconds: float
) -> list[Image]:
    """What was named, else one that suits the model's input."""
    if paths:
        return read_images(paths)
    return [built_in_image(await ask_input_side(target, model, timeout_seconds))]


def _allow_connections(count: int) -> None:
    """Raise the limit of open files as far as that is ours to do. Raises MeasurementError where it does not reach."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + SPARE_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise MeasurementError(
            f"{count} connections need {needed} open files; here {hard} are allowed (`ulimit -Hn`)"
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _describe(load: Load) -> str:
    if load.rate is None:
        return f"closed loop, {load.connections} connections, {load.duration_seconds:g} s"
    return f"open loop, {load.rate:g} requests/s, {load.duration_seconds:g} s"


def _name(images: Sequence[Image]) -> str:
    if len(images) > 1:
        return f"{len(images)} images of {sum(len(image.data) for image in images) / len(images) / 1000:,.0f} kB in the mean"
    return f"{images[0].name} ({len(images[0].data) / 1000:,.1f} kB)"
