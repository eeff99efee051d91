"""Every expression of the dashboard and of the alerts runs, and every alert fires on purpose."""

import json
import math
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from colour_model import make_store, plain, publish
from faults import BadTraffic, serving_with_faults, serving_without_resources
from operating import eventually
from prometheus_process import Prometheus, find_program, free_port, scraping
from server_process import PATIENCE_SECONDS, REPOSITORY, running

from model_store.store import ModelStore

RULES = REPOSITORY / "deploy/prometheus/alerts.yml"
DASHBOARD = REPOSITORY / "deploy/grafana/dashboards/resident.json"
WINDOW = "5s"
STARTS = 5
Fired = set[tuple[str, str]]
"""Name of an alert, and its labels `instance` or `model`."""


def quick_rules() -> str:
    """The rules with short windows, without delays, and with a limit of memory that is reached."""
    rules = re.sub(r"\[\d+m\]", f"[{WINDOW}]", RULES.read_text())
    rules = re.sub(r"for: \w+", "for: 0s", rules)
    return rules.replace("resident_memory_limit_bytes > 0.9", "resident_memory_limit_bytes > 1e-9")


def dashboard_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    return [each.replace("$__rate_interval", WINDOW) for each in expressions]


LOG_OVERFLOW = ("ResidentLogRecordsDropped", "careless")


def fired(prometheus: Prometheus) -> Fired:
    alerts = [alert for rule in prometheus.rules() for alert in rule["alerts"]]
    return {
        (labels["alertname"], labels.get("instance") or labels.get("model", ""))
        for labels in (alert["labels"] for alert in alerts)
    }


def is_number(sample: dict[str, Any]) -> bool:
    return math.isfinite(float(sample["value"][1]))


@contextmanager
def good_traffic(address: str) -> Iterator[None]:
    """Requests that succeed, until the block ends."""
    ended = threading.Event()

    def send() -> None:
        with httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as client:
            while not ended.wait(0.05):
                assert client.post("/v1/predict", content=plain("red")).status_code == 200

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def start_often(prometheus: Prometheus, store: ModelStore, port: int) -> None:
    """Start a server several times; each time it is scraped before it ends."""

    def count_scraped_starts() -> int:
        changes = prometheus.query('changes(process_start_time_seconds{instance="restarted"}[1h])')
        return 1 + int(changes[0]["value"][1]) if changes else 0

    for number in range(STARTS):
        with running("--store", store.root, "--no-builtin", "--port", port) as server:
            server.announced()
            eventually(count_scraped_starts, number + 1)


@pytest.mark.slow
def test_every_alert_fires_and_every_panel_has_data(tmp_path: Path) -> None:
    """A server without faults fires no alert."""
    find_program("prometheus")
    folders = [tmp_path / name for name in ("good", "bad", "careless", "prometheus", "restarted")]
    for folder in folders:
        folder.mkdir()
    good, bad, careless, own, restarted = folders
    store = make_store(good / "store")
    publish(store, "good")
    restarted_port = free_port()
    with ExitStack() as stack:
        flags = ("--store", store.root, "--no-builtin", "--default-model", "good")
        server = stack.enter_context(running(*flags)).announced()
        faulty = stack.enter_context(serving_with_faults(bad))
        address, cause_faults = stack.enter_context(
            serving_without_resources(careless, lambda: LOG_OVERFLOW in fired(prometheus))
        )
        targets = {
            "good": server.address,
            "bad": faulty.address,
            "careless": address,
            "restarted": f"http://127.0.0.1:{restarted_port}",
        }
        hosts = {name: target.removeprefix("http://") for name, target in targets.items()}
        prometheus = stack.enter_context(scraping(own, hosts, quick_rules()))
        names = {rule["name"] for rule in prometheus.rules()}
        stack.enter_context(good_traffic(server.address))
        stack.enter_context(BadTraffic(faulty.address))
        restarts_store = make_store(restarted / "store")
        publish(restarts_store)
        starting = threading.Thread(
            target=start_often, args=(prometheus, restarts_store, restarted_port)
        )
        starting.start()
        cause_faults()
        seen: Fired = set()
        missing = set(dashboard_expressions())

        def look() -> tuple[set[str], set[str]]:
            seen.update(fired(prometheus))
            for each in list(missing):
                if any(map(is_number, prometheus.query(each))):
                    missing.discard(each)
            return names - {name for name, _ in seen}, missing

        eventually(look, (set(), set()))
        starting.join()
        eventually(lambda: ("ResidentDown", "restarted") in fired(prometheus), expected=True)
        # On a busy machine, a scrape may take longer than its timeout of a second.
        allowed = {"ResidentMemoryShort", "ResidentDown"}
        assert {name for name, of in seen if of == "good"} <= allowed
        assert all(rule["health"] == "ok" for rule in prometheus.rules())
        expected = {
            ("ResidentNotReady", "bad"),
            ("ResidentNotLive", "careless"),
            ("ResidentStoreUnreadable", "careless"),
            ("ResidentDescriptorsShort", "careless"),
            LOG_OVERFLOW,
            ("ResidentRestarts", "restarted"),
            ("ResidentErrors", "hanging"),
            ("ResidentImagesUnlikeTraining", "bad"),
        }
        assert expected <= seen


def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    promtool = find_program("promtool")
    configuration = RULES.with_name("prometheus.yml")
    for command in (["check", "rules", RULES], ["check", "config", configuration]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_says_what_to_do_and_is_in_the_guide() -> None:
    rules = RULES.read_text()
    names = re.findall(r"- alert: (\w+)", rules)
    assert len(names) == len(set(names)) == rules.count("runbook:") == rules.count("severity:")
    guide = (REPOSITORY / "docs/how-to/monitor.md").read_text()
    assert [name for name in names if f"`{name}`" not in guide] == []
