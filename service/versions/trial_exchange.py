"""How several processes that try the same versions try each of them only once."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.engine.warm_model import Measurement
from service.versions.trial_records import TrialRecord


class TrialExchange:
    """A process that is alone: nobody else tries versions. Both methods are called in threads."""

    @contextmanager
    def turn(self, key: str) -> Iterator[None]:  # noqa: ARG002  of the key of a candidate
        """Wait until no other process tries the version, and keep others from it."""
        yield

    def publish(self, key: str, record: TrialRecord, measurement: Measurement | None) -> None:
        """Tell all other processes how a trial ended, within `turn`."""
