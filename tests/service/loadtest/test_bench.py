"""`python -m service bench` against real servers."""

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
from service.loadtest.load_generator import arrivals


def run_bench(tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command with its chart in `tmp_path`."""
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


def load_for_a_second(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """The JSON report of a load of one second."""
    document = tmp_path / "bench.json"
    done = run_bench(tmp_path, "--duration", 1, "--warm-up", 0.3, "--json", document, *arguments)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(document.read_bytes())
    assert report["requests"] == report["answered"] + sum(report["errors"].values())
    assert re.search(rf"answered\D+{report['answered']:,}", done.stdout)
    return report


def test_closed_loop_counts_what_was_answered(server: ServerProcess, tmp_path: Path) -> None:
    """Without overload every request is answered, and the chart is written."""
    report = load_for_a_second(tmp_path, server.address, "--connections", 4)
    assert report["errors"] == {}
    assert report["answered"] == report["latency"]["requests"] > 0
    assert report["images"] > 0
    percentiles = [*report["latency"]["percentiles"].values(), report["latency"]["max"]]
    assert percentiles == sorted(percentiles)
    assert (tmp_path / "bench.svg").read_text().startswith("<?xml")


def test_open_loop_sends_as_many_requests_as_are_due(server: ServerProcess, tmp_path: Path) -> None:
    """The number of requests depends on the rate, not on the server."""
    report = load_for_a_second(
        tmp_path,
        server.address,
        "--rate",
        60,
        "--model",
        MODEL,
        "--picture",
        tmp_path / "over-time.png",
    )
    assert report["requests"] == sum(moment >= 0.3 for moment in arrivals(60, 1.3))
    assert (tmp_path / "over-time.png").read_bytes().startswith(b"\x89PNG")


def test_rejections_of_an_overloaded_server_are_counted(
    colour_store: ModelStore, tmp_path: Path
) -> None:
    """With a queue of one image and eight clients most requests get 429."""
    arguments = (
        "--store",
        colour_store.root,
        "--no-builtin",
        "--max-queue-size",
        1,
        "--max-queue-delay-seconds",
        0.05,
    )
    with running(*arguments) as server:
        report = load_for_a_second(tmp_path, server.announced().address, "--connections", 8)
    assert set(report["errors"]) == {"429 overloaded"}
    assert report["refused"]["requests"] == report["errors"]["429 overloaded"] > 0


def test_images_of_a_request_are_counted_one_by_one(server: ServerProcess, tmp_path: Path) -> None:
    """A folder is sent in forms of three; a broken image is an error of its request."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for colour in ("red", "green", "blue"):
        (pictures / f"{colour}.png").write_bytes(plain(colour))
    (pictures / "notes.txt").write_text("not an image")
    report = load_for_a_second(
        tmp_path, server.address, "--image", pictures, "--images-per-request", 3, "--connections", 2
    )
    assert report["sent"] == ["blue.png", "green.png", "red.png"]
    assert report["images"] % 3 == 0
    (pictures / "red.png").write_bytes(plain("red")[:40])
    report = load_for_a_second(
        tmp_path, server.address, "--image", pictures, "--images-per-request", 2, "--connections", 2
    )
    assert set(report["errors"]) == {"200, but an image: truncated_image"}


def test_closed_port_is_reported_in_one_line(tmp_path: Path) -> None:
    """The line says how to start a server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = run_bench(tmp_path, f"http://127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        rf"Error: 127\.0\.0\.1:{port}: connection refused\..*python -m service.*\n", done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["URL", "--model", "nobody"], 1, "404 model_not_found"),
        (["URL/v1/predict", "--model", "colours"], 1, "--model colours"),
        (["URL", "--image", "README.md"], 1, "README.md"),
        (["URL", "--image", "requirements"], 1, "requirements"),
        (["URL", "--image", "nowhere.png"], 2, "nowhere.png"),
        (["URL", "--rate", "0"], 2, "--rate"),
        (["URL", "--rate", "inf"], 2, "--rate"),
        (["URL", "--duration", "nan"], 2, "'nan'"),
        (["URL", "--header", "no colon"], 2, "NAME: VALUE"),
        (["URL", "--picture", "bench.gif"], 2, "bench.gif"),
        (["URL", "--json", "/nowhere/bench.json"], 2, "/nowhere"),
        (["URL", "--connections", "100000000"], 1, "open files"),
        (["ftp://127.0.0.1"], 1, "http://HOST:PORT"),
        (["http://[::1"], 1, "http://[::1"),
        (["http://127.0.0.1:99999"], 1, "99999"),
        ([f"http://{'a' * 70}.example"], 1, ".example"),
        ([], 2, "URL"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(
    server: ServerProcess, tmp_path: Path, arguments: list[str], code: int, named: str
) -> None:
    """Failed measurements have exit code 1, a wrong command line has 2."""
    placed = [
        "--picture",
        str(tmp_path / "bench.svg"),
        *(argument.replace("URL", server.address) for argument in arguments),
    ]
    done = CliRunner().invoke(bench, placed)
    assert done.exit_code == code, done.output
    assert named in done.stderr
    assert isinstance(done.exception, SystemExit)


COMMANDS = pytest.mark.parametrize(
    ("command", "arguments"), [("bench", ["http://127.0.0.1:1"]), ("tune", ["colours"])]
)


def run_without(module: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that cannot import `module`."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules[{module!r}] = None; {code}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


@COMMANDS
@pytest.mark.parametrize("missing", ["rich", "service.loadtest"])
def test_missing_package_is_reported_with_the_extra_to_install(
    missing: str, command: str, arguments: list[str]
) -> None:
    """Without the extra, and in the serving image without load tests, the commands exit with 1."""
    argv = ["service", command, *arguments]
    code = f"sys.argv = {argv!r}; from service.__main__ import main; main()"
    done = run_without(missing, code)
    assert (done.returncode, done.stdout) == (1, "")
    assert "[service,tune]" in done.stderr
    assert (f"`{command}`" if missing == "service.loadtest" else missing) in done.stderr


def test_serving_image_has_no_load_tests_and_needs_none() -> None:
    """The image is built without them, and the server imports nothing of them."""
    assert "service/loadtest" in (REPOSITORY / ".dockerignore").read_text().splitlines()
    done = run_without("service.loadtest", "import service.server")
    assert done.returncode == 0, done.stderr
