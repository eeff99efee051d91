"""A real Prometheus that scrapes servers of a test and evaluates rules."""

import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from operating import eventually
from server_process import PATIENCE_SECONDS

SCRAPE_INTERVAL = "1s"
EVALUATION_INTERVAL = "250ms"


def find_program(name: str) -> str:
    """The path of a program of Prometheus. Skips the test if it is not installed."""
    program = shutil.which(name)
    if not program:
        pytest.skip(f"needs {name}, which Debian's package prometheus contains")
    return program


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Prometheus:
    def __init__(self, port: int) -> None:
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS, trust_env=False
        )

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[Any]:
        """The vector that an expression gives now. A wrong expression fails the test."""
        response = self._client.get("/api/v1/query", params={"query": expression})
        assert response.status_code == 200, f"{expression}: {response.text}"
        return list(response.json()["data"]["result"])

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with the alerts that it has now."""
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def close(self) -> None:
        self._client.close()


@contextmanager
def scraping(folder: Path, targets: Mapping[str, str], rules: str) -> Iterator[Prometheus]:
    """A Prometheus with these rules. Targets are addresses by the name that is their instance."""
    program, port = find_program("prometheus"), free_port()
    (folder / "rules.yml").write_text(rules)
    configs = "".join(
        f"      - {{targets: ['{address}'], labels: {{instance: {name}}}}}\n"
        for name, address in targets.items()
    )
    (folder / "prometheus.yml").write_text(
        f"global: {{scrape_interval: {SCRAPE_INTERVAL}, "
        f"evaluation_interval: {EVALUATION_INTERVAL}}}\n"
        "rule_files: [rules.yml]\n"
        "scrape_configs:\n  - job_name: resident\n    static_configs:\n" + configs
    )
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    prometheus = Prometheus(port)
    try:
        eventually(prometheus.is_ready, expected=True)
        yield prometheus
    finally:
        prometheus.close()
        process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)
