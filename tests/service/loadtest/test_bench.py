"""`python -m service bench` against real servers: what it counts and draws, and what it says where nothing can be measured."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from colour_model import MODEL, plain
from server_process import PATIENCE_SECONDS, REPOSITORY, ServerProcess, running

from model_store.store import ModelStore
from service.loadtest.bench_command import bench
from service.loadtest.load import arrivals


def run_bench(tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command, with its picture in `tmp_path`."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "service",
            "bench",
            "--picture",
            str(tmp_path / "bench.svg"),
            *map(str, arguments),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def figures(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """What a load of a second found."""
    document = tmp_path / "bench.json"
    done = run_bench(tmp_path, "--duration", 1, "--warm-up", 0.3, "--json", document, *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(document.read_bytes())
    assert found["requests"] == found["answered"] + sum(found["errors"].values())
    assert re.search(rf"answered\D+{found['answered']:,}", done.stdout)
    return found


def test_closed_loop_counts_what_was_answered(server: ServerProcess, tmp_path: Path) -> None:
    """A server with room answers everything; latency has its percentiles in order, and the picture is one."""
    found = figures(tmp_path, server.address, "--connections", 4)
    assert found["errors"] == {}
    assert found["answered"] == found["latency"]["requests"] > 0
    assert found["images"] > 0
    percentiles = [*found["latency"]["percentiles"].values(), found["latency"]["max"]]
    assert percentiles == sorted(percentiles)
    assert (tmp_path / "bench.svg").read_text().startswith("<?xml")


def test_open_loop_sends_as_many_as_are_due(server: ServerProcess, tmp_path: Path) -> None:
    """The rate decides how many requests there are, not the server."""
    found = figures(
        tmp_path,
        server.address,
        "--rate",
        60,
        "--model",
        MODEL,
        "--picture",
        tmp_path / "over-time.png",
    )
    assert found["requests"] == sum(moment >= 0.3 for moment in arrivals(60, 1.3))
    assert (tmp_path / "over-time.png").read_bytes().startswith(b"\x89PNG")


def test_overloaded_server_shows_its_refusals_by_kind(
    colour_store: ModelStore, tmp_path: Path
) -> None:
    """With room for one image and eight clients, most get 429, and are counted so."""
    arguments = (
        "--store",
        colour_store.root,
        "--builtin",
        "false",
        "--max-queue-size",
        1,
        "--max-queue-delay-seconds",
        0.05,
    )
    with running(*arguments) as server:
        found = figures(tmp_path, server.announced().address, "--connections", 8)
    assert set(found["errors"]) == {"429 overloaded"}
    assert found["refused"]["requests"] == found["errors"]["429 overloaded"] > 0


def test_several_images_a_request_are_counted_one_by_one(
    server: ServerProcess, tmp_path: Path
) -> None:
    """A folder is gone through in turn, forms of three; an image that is none is an error of the request."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for colour in ("red", "green", "blue"):
        (pictures / f"{colour}.png").write_bytes(plain(colour))
    (pictures / "notes.txt").write_text("no image")
    found = figures(
        tmp_path, server.address, "--image", pictures, "--images-per-request", 3, "--connections", 2
    )
    assert found["sent"] == ["blue.png", "green.png", "red.png"]
    assert found["images"] % 3 == 0
    (pictures / "red.png").write_bytes(plain("red")[:40])
    found = figures(
        tmp_path, server.address, "--image", pictures, "--images-per-request", 2, "--connections", 2
    )
    assert set(found["errors"]) == {"200, but an image: truncated_image"}


def test_dead_port_is_said_at_once(tmp_path: Path) -> None:
    """Where nothing listens nothing is measured, in one line that says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = run_bench(tmp_path, f"http://127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        rf"Error: 127\.0\.0\.1:{port}: connection refused\..*python -m service.*\n", done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["URL", "--model", "nobody"], 1, "404 model_not_found: there is no model 'nobody'"),
        (["URL/v1/predict", "--model", "colours"], 1, "names a route already"),
        (["URL", "--image", "README.md"], 1, "README.md is no image"),
        (["URL", "--image", "requirements"], 1, "requirements has no image in it"),
        (["URL", "--image", "nowhere.png"], 2, "nowhere.png"),
        (["URL", "--rate", "0"], 2, "--rate"),
        (["URL", "--rate", "inf"], 2, "--rate"),
        (["URL", "--duration", "nan"], 2, "'nan' is no number"),
        (["URL", "--header", "no colon"], 2, "NAME: VALUE"),
        (["URL", "--picture", "bench.gif"], 2, "must end in"),
        (["URL", "--json", "/nowhere/bench.json"], 2, "there is no directory"),
        (["URL", "--connections", "100000000"], 1, "open files"),
        (["ftp://127.0.0.1"], 1, "write http://HOST:PORT"),
        (["http://[::1"], 1, "no address"),
        (["http://127.0.0.1:99999"], 1, "no address"),
        ([f"http://{'a' * 70}.example"], 1, "no address"),
        ([], 2, "URL"),
    ],
)
def test_what_can_not_be_measured_is_said(
    server: ServerProcess, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    """Every wrong word on the command line ends in a line that names it, and no traceback."""
    placed = [
        "--picture",
        str(tmp_path / "bench.svg"),
        *(argument.replace("URL", server.address) for argument in arguments),
    ]
    done = CliRunner().invoke(bench, placed)
    assert done.exit_code == code, done.output
    assert said in done.stderr
    assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize(
    ("command", "arguments"), [("bench", ["http://127.0.0.1:1"]), ("tune", ["colours"])]
)
def test_without_the_extra_the_commands_say_what_to_install(
    command: str, arguments: list[str]
) -> None:
    """The serving image has no rich: the commands end with the line that gets it."""
    said = f"sys.argv = ['service', {command!r}, *{arguments!r}]"
    code = (
        f"import sys; sys.modules['rich'] = None; {said}; from service.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "Error: rich must be installed for this: python -m pip install rich, in a checkout '.[service,tune]'\n"
    )
