"""The Grafana dashboard queries metrics that the service has."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy/grafana/dashboards/resident.json"
METRIC = re.compile(r"\b(?:resident|process)_[a-z_]+")


def test_every_metric_of_the_dashboard_exists() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    used = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in METRIC.findall(target["expr"])
    }
    documented = re.findall(
        r"^\| `(\w+)` \| (\w+)", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE
    )
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    known = {name + suffix for name, kind in documented for suffix in suffixes.get(kind, ("",))}
    assert used <= known
    assert len(used) > 5


def test_panels_have_a_title_and_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
