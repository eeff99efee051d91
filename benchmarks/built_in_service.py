"""Starts the service of a checkout with the built-in models."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from machine import free_port
from startup import is_ready


@contextlib.contextmanager
def run_built_in_models(checkout: Path, flags: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Run the service until the block ends. Yields its port and its process id."""
    port = free_port()
    with tempfile.TemporaryDirectory() as empty:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", str(port), "--store", empty, *flags],
            cwd=checkout,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not is_ready(port):
                if process.poll() is not None:
                    raise SystemExit(f"the service in {checkout} ended with {process.returncode}")
                time.sleep(0.05)
            yield port, process.pid
        finally:
            process.terminate()
            process.wait()
