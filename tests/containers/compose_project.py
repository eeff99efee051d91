"""A project of docker compose: the real containers of docker-compose.yml."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import httpx

REPOSITORY = Path(__file__).parents[2]
BASE_IMAGE = os.environ.get("BASE_IMAGE", "python:3.11-slim-bookworm")
READY_SECONDS = 120
COMMAND_SECONDS = 900
HEALTHCHECK = ("python", "-I", "-S", "/app/service/healthcheck.py")


def answers(*command: str) -> bool:
    """Whether a command exists and succeeds."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def find_docker(folder: Path) -> str | None:
    """The directory that has a command `docker` with `docker compose`, or None.

    Where only Podman answers, the command is written to `folder`.
    """
    if answers("docker", "info") and answers("docker", "compose", "version"):
        return str(Path(shutil.which("docker") or "").parent)
    if answers("podman", "info") and answers("podman-compose", "version"):
        command = folder / "docker"
        command.write_text(
            '#!/bin/sh\nif [ "$1" = compose ]; then shift; exec podman-compose "$@"; fi\n'
            'exec podman "$@"\n'
        )
        command.chmod(0o755)
        return str(folder)
    return None


class Project:
    """The containers, networks and volumes of one test, under a name of their own.

    Every replica publishes a free port. Without `SERVICE_KEYS`, everyone may predict.
    """

    def __init__(self, name: str, docker: str, settings: Mapping[str, str]) -> None:
        clean = {name: text for name, text in os.environ.items() if not name.startswith("SERVICE_")}
        self.environment = clean | {
            "PATH": os.pathsep.join([docker, os.environ["PATH"], "/usr/sbin", "/sbin"]),
            "COMPOSE_PROJECT_NAME": name,
            "BASE_IMAGE": BASE_IMAGE,
            "PORT": "",
            "SERVICE_KEYS": "",
            "CPUS": "1",
            **settings,
        }

    @property
    def is_podman(self) -> bool:
        """Whether the command `docker` is Podman."""
        return "podman" in self.docker("--version")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout, and show its output if it fails."""
        path = self.environment["PATH"]
        done = subprocess.run(
            [shutil.which(command[0], path=path) or command[0], *command[1:]],
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def docker(self, *arguments: str) -> str:
        """Run `docker …` and return what it prints."""
        return self.run("docker", *arguments).stdout.strip()

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `docker compose …`."""
        return self.run("docker", "compose", *arguments, check=check)

    def build(self, target: str, tag: str, **arguments: str) -> None:
        """Build a stage of the Dockerfile."""
        options = [
            f"--build-arg={name}={text}"
            for name, text in ({"BASE_IMAGE": BASE_IMAGE} | arguments).items()
        ]
        self.docker("build", "--target", target, "--tag", tag, *options, ".")

    def up(self, *services: str, replicas: int = 1) -> list[str]:
        """Start services; returns the ids of the replicas of `service` once they are ready."""
        self.compose("up", "--detach", "--no-build", "--scale", f"service={replicas}", *services)
        containers = self.containers()
        assert len(containers) == replicas
        for container in containers:
            self.wait_until_ready(container)
        return containers

    def down(self, *options: str) -> None:
        self.compose("--profile", "proxy", "down", "--timeout", "20", *options)

    def remove(self) -> None:
        """Remove everything of this project: Podman's `down` leaves replicas of `--scale`."""
        for container in self._containers():
            self.docker("rm", "--force", "--volumes", container)
        self.down("--volumes")

    def containers(self, service: str = "service") -> list[str]:
        return self._containers("--filter", f"label=com.docker.compose.service={service}")

    def _containers(self, *options: str) -> list[str]:
        name = self.environment["COMPOSE_PROJECT_NAME"]
        project = ("--filter", f"label=com.docker.compose.project={name}")
        return self.docker("ps", "--all", "--quiet", *project, *options).split()

    def wait_until_ready(self, container: str) -> None:
        """Run the health check of the image until it succeeds."""
        limit = monotonic() + READY_SECONDS
        while True:
            done = self.run("docker", "exec", container, *HEALTHCHECK, check=False)
            if done.returncode == 0:
                return
            logs = self.run("docker", "logs", container, check=False)
            assert monotonic() < limit, f"{done.stderr}\n{logs.stdout}\n{logs.stderr}"

    def address(self, container: str, port: int = 8000) -> str:
        published = self.docker("port", container, f"{port}/tcp").splitlines()[0]
        return f"http://{published}"

    def client(self, container: str) -> httpx.Client:
        return httpx.Client(base_url=self.address(container), timeout=60, trust_env=False)

    def state(self, container: str, template: str) -> str:
        return self.docker("inspect", "--format", template, container)


@contextmanager
def started(docker: str, settings: Mapping[str, str]) -> Iterator[Project]:
    """A project that is removed with its volumes when the block ends."""
    project = Project(f"resident-test-{secrets.token_hex(4)}", docker, settings)
    try:
        yield project
    finally:
        project.remove()


MakeProject = Callable[..., Project]
"""Makes a project with variables of docker-compose.yml."""
