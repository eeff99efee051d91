"""The measured servers: Resident, and each peer in the setup that its documentation recommends.

Each peer is installed into an environment of its own.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from machine import ROOT, cores
from workloads import BUILD, Bodies, Workload

PEERS = ROOT / "benchmarks/peers"
MAX_BATCH_SIZE = 32
SHARED_PACKAGES = ("onnxruntime", "numpy", "pillow")  # the same versions on every side


class SideError(Exception):
    """A side cannot be measured; the message says why."""


@dataclass(frozen=True)
class Setup:
    """Workers (processes or instances) and threads per run of a server.

    With 0 threads, Resident and ONNX Runtime choose by themselves.
    """

    workers: int
    threads: int
    note: str = ""
    variables: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.workers} x {self.threads} threads{self.note}"


def each_core(note: str = "", **variables: str) -> Setup:
    """One single-threaded worker per core."""
    return Setup(cores(), 1, note, tuple(variables.items()))


def one_worker(note: str = "", **variables: str) -> Setup:
    """One worker with one thread per core."""
    return Setup(1, cores(), note, tuple(variables.items()))


@dataclass(frozen=True)
class Side:
    """A server: its route, its request format and its command. `script` is None for Resident."""

    key: str
    name: str
    setups: tuple[Setup, ...]
    script: str | None = None
    requirements: str | None = None
    field: str | None = None
    path: str = "/predict"
    module: str | None = None
    """The module of its package that serves the script; by default the script is run."""

    def path_of(self, workload: Workload) -> str:
        return self.path.format(model=workload.model)

    def bodies(self, workload: Workload) -> Bodies:
        return workload.bodies(self.field)

    def command(
        self, workload: Workload, setup: Setup, port: int, extra: Sequence[str]
    ) -> list[str]:
        if self.script is None:
            spread = []
            if setup.threads:
                spread = ["--instances", str(setup.workers)]
                spread += ["--intra-op-num-threads", str(setup.threads)]
            model = ["--store", str(workload.store), "--precision", workload.precision]
            # The user's own cache may have tuned settings.
            own = ["--cache", str(BUILD / "cache")]
            return [
                sys.executable,
                "-m",
                "service",
                "--port",
                str(port),
                *model,
                *spread,
                *own,
                *extra,
            ]
        python = self.install()
        if self.module:
            return [
                str(python),
                "-m",
                self.module,
                "serve",
                self.script,
                "--port",
                str(port),
                "--host",
                "127.0.0.1",
            ]
        return [str(python), str(PEERS / self.script)]

    def install(self) -> Path:
        """Install the side once and return its Python. Raises SideError if that fails."""
        if self.requirements is None:
            return Path(sys.executable)
        home, requirements = ROOT / "build/peers" / self.key, PEERS / self.requirements
        python, stamp = home / "bin/python", home / ".installed"
        same = [f"{name}=={metadata.version(name)}" for name in SHARED_PACKAGES]
        installation = "\n".join([*same, requirements.read_text()])
        if stamp.exists() and stamp.read_text() == installation:
            return python
        print(f"installing {self.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
            str(requirements),
            *same,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SideError(
                f"cannot be installed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
            )
        stamp.write_text(installation)
        return python

    def version(self) -> str:
        """The installed version of its package; empty for Resident and plain scripts."""
        if self.requirements is None:
            return ""
        package = Path(self.requirements).stem
        code = f"from importlib.metadata import version; print(version({package!r}))"
        return subprocess.run(
            [str(self.install()), "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()


OURS = Side("resident", "Resident", (each_core(),), path="/v1/models/{model}/predict")
_MOSEC = (
    each_core(", decode apart", STAGES="2"),
    one_worker(", decode apart", STAGES="2"),
    each_core(", batches up to 16", STAGES="1", MAX_BATCH_SIZE="16"),
    each_core(STAGES="1"),
)
_BENTOML = ("bentoml_service:Service", "bentoml.txt")
ALL_PEERS = (
    Side(
        "fastapi",
        "FastAPI",
        (each_core(), one_worker(), Setup(1, 1, " in each of its pool")),
        "plain_fastapi.py",
    ),
    Side(
        "litserve",
        "LitServe",
        (each_core(), one_worker()),
        "litserve_server.py",
        "litserve.txt",
        field="request",
    ),
    Side("mosec", "mosec", _MOSEC, "mosec_server.py", "mosec.txt", path="/inference"),
    Side(
        "bentoml",
        "BentoML",
        (each_core(), one_worker()),
        *_BENTOML,
        field="images",
        module="bentoml",
    ),
    Side("ray", "Ray Serve", (each_core(), one_worker()), "ray_app.py", "ray.txt"),
)
