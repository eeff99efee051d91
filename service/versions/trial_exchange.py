"""Lets several processes try each version only once."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.engine.warm_model import Measurement
from service.versions.trial_records import TrialRecord


class TrialExchange:
    """For a single process: no other one tries versions. Both methods are called in threads."""

    @contextmanager
    def exclusive(self, key: str) -> Iterator[None]:  # noqa: ARG002  of the key of a candidate
        """Wait until no other process tries the version, and keep others from it."""
        yield

    def publish(self, key: str, record: TrialRecord, measurement: Measurement | None) -> None:
        """Tell all other processes how a trial ended, within `exclusive`."""
