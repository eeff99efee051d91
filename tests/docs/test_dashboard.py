"""The Grafana dashboard and the alerts query metrics that the service has."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy/grafana/dashboards/resident.json"
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
METRIC = re.compile(r"\b(?:resident|process)_[a-z_]+")


def test_every_metric_of_the_dashboard_and_the_alerts_exists() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    used = set(METRIC.findall(" ".join([*expressions, ALERTS.read_text()])))
    documented = re.findall(
        r"^\| `(\w+)` \| (\w+)", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE
    )
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    known = {name + suffix for name, kind in documented for suffix in suffixes.get(kind, ("",))}
    assert used <= known
    assert len(used) > 20


def test_panels_have_a_title_and_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
