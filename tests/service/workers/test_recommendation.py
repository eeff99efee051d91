"""When the banner recommends more workers."""

import pytest
from colour_model import publish

from model_store.store import ModelStore
from service.startup_text import describe_startup
from service.versions.reconciler import reconcile
from service.versions.registry import Registry
from service.workers.recommendation import recommend_workers


@pytest.mark.parametrize(
    ("milliseconds", "cpus", "workers"),
    [
        (0.55, 2, 2),  # ResNet-20: two processes carry 1.2 times what one does
        (25.0, 2, None),  # ResNet-50
        (25.0, 64, 2),
        (0.55, 1, None),
        (0.0, 4, 4),  # never more workers than CPUs
    ],
)
def test_more_workers_are_for_fast_models_and_many_cpus(
    milliseconds: float, cpus: int, workers: int | None
) -> None:
    advice = recommend_workers(milliseconds / 1e3, cpus)
    assert (advice and advice.workers) == workers
    if advice:
        assert advice.images_per_second == pytest.approx(cpus / (milliseconds / 1e3 + 1.5e-4))


def test_banner_of_one_process_recommends_workers(
    store: ModelStore, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no advice on one CPU, or if there are several workers already."""
    publish(store)
    reconcile(registry)
    registry.default_model = "colours"

    def lines(cpus: int, workers: int = 1) -> list[str]:
        monkeypatch.setattr("service.startup_text.cpu_limit", lambda: cpus)
        shown = describe_startup(registry, "http://localhost", workers=workers)
        return [line for line in shown if line.startswith("  workers  ")]

    assert "--workers 2" in lines(2)[0]
    assert lines(1) == []
    assert "--workers" not in lines(2, workers=2)[0]
