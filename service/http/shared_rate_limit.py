"""Limits for requests per second that hold for all workers of a service together."""

from service.http.rate_limit import RateLimit
from service.workers.shared_buckets import SharedBuckets


class SharedRateLimit(RateLimit):
    """As `RateLimit`, for the requests of all workers."""

    __slots__ = ("_buckets", "_name")

    def __init__(self, buckets: SharedBuckets, requests_per_second: float, name: str) -> None:
        super().__init__(requests_per_second)
        self._name = name
        self._buckets = buckets

    def check(self, who: str) -> None:
        with self._buckets.lock():
            if stored := self._buckets.read(self._name):
                tokens, self._updated = stored
                self._tokens = min(self._burst, tokens)
            try:
                super().check(who)
            finally:
                self._buckets.write(self._name, self._tokens, self._updated)
