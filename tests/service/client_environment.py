"""Other projects' clients, which have an environment of their own beside the tests' one.

`make .venv/clients/.installed` builds it. Their requirements contradict those of the service.
"""

import subprocess
import sys
from pathlib import Path

from server_process import PATIENCE_SECONDS

PYTHON = Path(sys.prefix).parent / "clients/bin/python"


def run_client(script: Path, *arguments: object) -> str:
    """Run a script with the clients' Python. Returns what it printed."""
    assert PYTHON.exists(), f"there is no {PYTHON}: run make .venv/clients/.installed"
    done = subprocess.run(
        [PYTHON, script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
