"""Closed-loop load with `wrk`."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass

from machine import ROOT
from workloads import IMAGES, Bodies

SCRIPT = ROOT / "benchmarks/wrk.lua"


@dataclass(frozen=True)
class WrkResult:
    """Latencies in milliseconds; `failed` counts non-2xx answers and broken connections."""

    answered: int
    images_per_second: float
    p50: float
    p99: float
    failed: int


def wrk_load(port: int, path: str, bodies: Bodies, connections: int, seconds: float) -> WrkResult:
    """Send one request after the other on each connection."""
    if not (wrk := shutil.which("wrk")):
        raise SystemExit("wrk is not installed; on Debian: apt-get install wrk")
    variables = {
        "BODIES": str(bodies.folder),
        "COUNT": str(IMAGES),
        "URL_PATH": path,
        "CONTENT_TYPE": bodies.content_type,
    }
    variables |= {"LUMPS": "1"} if bodies.slow else {}
    variables |= {"JSON_LENGTH": str(bodies.json_length)} if bodies.json_length else {}
    command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    command += ["-s", str(SCRIPT), f"http://127.0.0.1:{port}"]
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, check=True
    )
    result = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    return WrkResult(**json.loads(result.removeprefix("RESULT")))
