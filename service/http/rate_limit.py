"""Limits for requests per second: a token bucket."""

import math
import time
from typing import Final

from service.errors import OverloadedError

MIN_BURST: Final = 1.0


class RateLimit:
    """Allows `requests_per_second` on average, and up to one second's requests at once."""

    __slots__ = ("_burst", "_tokens", "_updated", "requests_per_second")

    def __init__(self, requests_per_second: float) -> None:
        self.requests_per_second = requests_per_second
        self._burst = self._tokens = max(MIN_BURST, requests_per_second)
        self._updated = time.monotonic()

    def check(self, who: str) -> None:
        """Count a request.

        Args:
            who: Whose limit it is, for the message.

        Raises:
            OverloadedError: The limit is reached; `Retry-After` says when the next one is allowed.
        """
        self._refill()
        if self._tokens < 1:
            seconds = math.ceil((1 - self._tokens) / self.requests_per_second)
            raise OverloadedError(
                f"{who} may send {self.requests_per_second:g} requests per second; retry after "
                f"{seconds} s",
                code="rate_limited",
                headers={"Retry-After": str(seconds)},
                reason="rate_limit",
            )
        self._tokens -= 1

    @property
    def unused(self) -> bool:
        """Whether a new limit would allow the same requests."""
        self._refill()
        return self._tokens == self._burst

    def _refill(self) -> None:
        now = time.monotonic()
        refilled = self._tokens + (now - self._updated) * self.requests_per_second
        self._tokens, self._updated = min(self._burst, refilled), now
