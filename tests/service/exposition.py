"""Reads texts in Prometheus' format."""

from collections.abc import Mapping

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.http.metrics import ServiceMetrics


def exposed(metrics: ServiceMetrics) -> str:
    return generate_latest(metrics.registry).decode()


def find_sample(text: str, name: str, labels: Mapping[str, str]) -> float:
    """The value of the only sample with this name and these labels."""
    (value,) = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return value


def series(text: str) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """Name and labels of every sample."""
    return {
        (sample.name, frozenset(sample.labels.items()))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
