"""Schemathesis tries every operation of the OpenAPI document on a real server, with all checks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from documented_server import DocumentedServer

HERE = Path(__file__).parent
PROGRAM = Path(sys.prefix) / "bin/schemathesis"


@pytest.mark.parametrize(
    ("cases", "seed"),
    [(20, "--generation-deterministic"), pytest.param(100, "--seed=1", marks=pytest.mark.slow)],
)
@pytest.mark.timeout(1800)
def test_schemathesis_finds_nothing(
    documented: DocumentedServer, cases: int, seed: str, tmp_path: Path
) -> None:
    """No operation and no check is left out. The hooks explain what a schema cannot say."""
    done = subprocess.run(
        [
            PROGRAM,
            f"--config-file={HERE / 'schemathesis.toml'}",
            "run",
            f"{documented.address}/openapi.json",
            "--checks=all",
            f"--max-examples={cases}",
            seed,
            f"--header=Authorization: Bearer {documented.key}",
            "--no-color",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "schemathesis_hooks"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    document = httpx.get(f"{documented.address}/openapi.json", trust_env=False).json()
    operations = sum(map(len, document["paths"].values()))
    assert re.search(rf"Tested: {operations}$", done.stdout, re.MULTILINE)
