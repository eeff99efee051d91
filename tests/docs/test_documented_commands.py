"""The commands of every tutorial and how-to guide run as they stand in a copy of the checkout."""

import fcntl
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from markdown_commands import commands_of

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(ROOT)
    for kind in ("tutorial", "how-to")
    for page in (ROOT / "docs" / kind).glob("*.md")
)
READY_SECONDS = 240
COMMAND_SECONDS = 800


def test_a_fence_without_a_comment_is_run_and_one_with_a_reason_is_not(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\na\n```\n<!-- run: no (why) -->\n```sh\nb\n```\n"
        "<!-- run: background -->\n```sh\nc\n```\n```json\nd\n```\n"
    )
    assert [(command.code, command.mode) for command in commands_of(page)] == [
        ("a\n", "foreground"),
        ("b\n", "no"),
        ("c\n", "background"),
    ]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_page_activates_an_environment_before_it_uses_its_programs(page: Path) -> None:
    active = False
    for line in "".join(command.code for command in commands_of(ROOT / page)).splitlines():
        active = active or line.startswith(". ")
        assert active or not line.startswith(("resident ", "pip ")), line


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_commands_of_a_page_run_as_they_stand(page: Path, tmp_path: Path) -> None:
    commands = [command for command in commands_of(ROOT / page) if command.mode != "no"]
    if not commands:
        pytest.skip("every command of this page is marked `run: no`, with the reason")
    make_service_environment()
    checkout = copy_checkout(tmp_path / "checkout")
    port = free_port()
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(tmp_path),
        "PORT": str(port),
        "SERVICE_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))},
    }
    with background(checkout, environment) as start:
        # All fences of a page share one shell, so that an activated environment stays active.
        script = ["set -euo pipefail"]
        for command in commands:
            code = command.code.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
            if command.mode == "background":
                run(script, checkout, environment)
                start("\n".join([*activation(script), code]), port)
                script = ["set -euo pipefail", *activation(script)]
            else:
                script.append(code)
        run(script, checkout, environment)


def activation(script: list[str]) -> list[str]:
    """The lines of a script that activate an environment, for the next shell."""
    lines = "\n".join(script).splitlines()
    return [line for line in lines if line.startswith(". .venv/")]


def run(script: list[str], checkout: Path, environment: dict[str, str]) -> None:
    """Run a shell script and show its output where it fails."""
    done = subprocess.run(
        ["bash", "-c", "\n".join(script).replace("curl ", "curl --silent --show-error --fail ")],
        cwd=checkout,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-4000:]}"


@contextmanager
def background(checkout: Path, environment: dict[str, str]) -> Iterator:
    """Gives a function that starts a server and waits until it is ready; ends all of them."""
    running: list[subprocess.Popen[bytes]] = []

    def start(code: str, port: int) -> None:
        process = subprocess.Popen(
            ["bash", "-c", code], cwd=checkout, env=environment, start_new_session=True
        )
        running.append(process)
        limit = time.monotonic() + READY_SECONDS
        while not is_ready(port):
            assert process.poll() is None, f"{code} ended with {process.returncode}"
            assert time.monotonic() < limit, f"{code} was not ready in {READY_SECONDS} s"
            time.sleep(0.2)

    try:
        yield start
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def is_ready(port: int) -> bool:
    """Over HTTP, or over HTTPS with the certificate of the page."""
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    for scheme in ("http", "https"):
        url = f"{scheme}://127.0.0.1:{port}/health/ready"
        with (
            suppress(OSError, http.client.HTTPException),
            # Two schemes.
            urllib.request.urlopen(url, timeout=5, context=unverified) as answer,  # noqa: S310
        ):
            return answer.status == 200
    return False


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def make_service_environment() -> None:
    """Create `.venv/service` once: pages that run at the same time share it."""
    with (ROOT / ".venv" / "documented-commands.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(
            ["make", ".venv/service/.installed"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )


def copy_checkout(target: Path) -> Path:
    """The tracked files with their times, and the users' environments as links."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        source, destination = ROOT / name, target / name
        if source.is_file():
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, destination)
    if (ROOT / ".venv").is_dir():
        # The environment of these tests has all that a user's has: torch is not installed twice.
        environments = {"service": ROOT / ".venv/service", "training": Path(sys.prefix)}
        (target / ".venv").mkdir()
        for name, environment in environments.items():
            (target / ".venv" / name).symlink_to(environment.resolve())
    return target
