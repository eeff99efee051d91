"""How the gauges of several workers become one."""

from pathlib import Path

import pytest
from asgi_application import started
from colour_model import MODEL, publish
from densities import DENSITY

from model_store.store import ModelStore
from service.http.combined_metrics import GAUGES, Families, combine_families, dump_families
from service.key_changes import add_key

VERSION = {"model": MODEL, "version": "1"}


def gauge(name: str, *values: float) -> list[Families]:
    """The gauge of several workers."""
    return [
        [{"name": name, "documentation": "", "type": "gauge", "samples": [(name, VERSION, value)]}]
        for value in values
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resident_queue_images", 12),
        ("resident_queue_oldest_seconds", 9),
        ("resident_recent_embedding_drift", 4),
        ("resident_recent_top_score_mean_ratio", 4),
        ("resident_test_accuracy_ratio", 9),
        ("resident_test_top_score_mean_ratio", 9),
        ("resident_test_top_score_ratio", 9),
        ("resident_live", 1),
    ],
)
def test_a_gauge_is_combined_by_its_meaning(name: str, expected: float) -> None:
    ((family),) = combine_families(gauge(name, 1, 9, 2))
    assert family["samples"] == [(name, VERSION, expected)]


@pytest.mark.anyio
async def test_every_gauge_says_how_it_is_combined(store: ModelStore, tmp_path: Path) -> None:
    """A new gauge that nobody has thought about fails here."""
    publish(store, embedding=True, density=DENSITY)
    keys = tmp_path / "keys.json"
    add_key(keys, "deploy", ["manage"])
    async with started(store.root, triton_metrics=True, keys=keys) as application:
        families = dump_families(application.app._metrics.registry)
    assert {each["name"] for each in families if each["type"] == "gauge"} == set(GAUGES)
