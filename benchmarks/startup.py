"""How long from exec to ready, and how much memory then: the service beside a bare FastAPI app with the same model.

With --resnet50 STORE also a store with that model, with and without the host's cache of optimised graphs.

All are started in turn, n times each after one start that is not counted (it fills the cache); ready is the first 200 of
/health/ready, asked every 5 ms; memory is VmRSS at that moment. Writes benchmarks/RESULTS.md.
"""

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).parent.parent
BUILTIN = ROOT / "model_store/builtin/cifar10"
FLAGS_THAT_MATTER = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
PACKAGES = ("fastapi", "uvicorn", "onnxruntime", "numpy", "pillow", "pydantic")


def start(command: Sequence[str], port: int) -> tuple[float, float]:
    """Start a server, wait until it is ready, stop it: seconds, and resident MB at that moment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SERVICE_")}
    environment |= {"PORT": str(port), "MODEL_DIRECTORY": str(BUILTIN / "1"), "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not answers(port):
            if process.poll() is not None:
                raise SystemExit(f"{command} ended with {process.returncode}")
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        return seconds, resident_megabytes(process.pid)
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    """Whether /health/ready gives 200."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as response:
            return response.status == 200
    except (URLError, OSError):
        return False


def resident_megabytes(pid: int) -> float:
    """VmRSS of a process in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit("this measurement reads /proc and needs Linux")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def describe_machine() -> str:
    """Processor, the flags that matter, cores, versions."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in cpu.splitlines() if line.startswith("model name")), platform.machine())
    flags = next((line.split(":")[1].split() for line in cpu.splitlines() if line.startswith("flags")), [])
    present = ", ".join(flag for flag in FLAGS_THAT_MATTER if flag in flags)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    cores = len(os.sched_getaffinity(0))
    return f"{model} ({present}), {cores} cores, {platform.system()}; Python {platform.python_version()}, {versions}"


def main() -> None:
    """Measure in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=10, help="counted starts of each")
    parser.add_argument("--resnet50", type=Path, metavar="STORE", help="a store that holds ResNet-50 and nothing else")
    options = parser.parse_args()
    n, port, machine = options.n, free_port(), describe_machine()
    service = [sys.executable, "-m", "service", "--port", str(port), "--cache", tempfile.mkdtemp(), "--store"]
    commands = {
        "Resident, all three built-in models verified, warmed and proven": [*service, tempfile.mkdtemp()],  # an empty store
        "bare FastAPI app, the default one of them": [sys.executable, str(ROOT / "benchmarks/bare_app.py")],
    }
    if options.resnet50:
        alone = [*service, str(options.resnet50), "--builtin", "false"]
        commands["Resident, ResNet-50, from the second start on a host on"] = alone
        commands["Resident, ResNet-50, without the cache of optimised graphs"] = [*alone, "--cache-max-bytes", "0"]
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(n + 1):
        for name, command in commands.items():
            figure = start(command, port)
            if turn:
                figures[name].append(figure)
                print(f"{turn}/{n}  {name}: {figure[0]:.2f} s, {figure[1]:.0f} MB", flush=True)
    rows = [
        "| server | exec to ready, s: median (min to max) | resident when ready, MB: median (max) |",
        "|---|---|---|",
    ]
    for name, found in figures.items():
        seconds, megabytes = zip(*found, strict=True)
        rows.append(
            f"| {name} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) "
            f"| {statistics.median(megabytes):.0f} ({max(megabytes):.0f}) |"
        )
    text = [
        "# Results",
        "",
        f"Written by `make bench`. {machine}.",
        "",
        "## Start",
        "",
        f"All servers started in turn, n = {n} each after one start that is not counted. Ready is the first 200 of",
        "`/health/ready`; resident is VmRSS at that moment.",
        "",
        *rows,
        "",
    ]
    (ROOT / "benchmarks/RESULTS.md").write_text("\n".join(text))
    print("\n".join(rows))


if __name__ == "__main__":
    main()
