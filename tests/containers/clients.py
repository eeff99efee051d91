"""Clients that send predictions without a pause, and keep what happened to each of them."""

import threading
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

IMAGE = (Path(__file__).parents[2] / "docs/images/digit-7.png").read_bytes()
TIMEOUT_SECONDS = 60


class Clients:
    """Threads that send one image after the other until the block ends.

    Attributes:
        outcomes: Number of requests by status, or by the name of the error.
    """

    def __init__(self, address: str, threads: int = 4, *, key: str = "") -> None:
        self.outcomes: Counter[int | str] = Counter()
        self._address = address
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no new request, and wait for the answers to those that were sent."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, answers: int) -> None:
        """Wait until there are this many more outcomes than now."""
        with self._changed:
            target = self.outcomes.total() + answers
            enough = self._changed.wait_for(
                lambda: self.outcomes.total() >= target, TIMEOUT_SECONDS
            )
        assert enough, self.outcomes

    def _send(self) -> None:
        with httpx.Client(
            verify=False,  # noqa: S501  the test's own certificate
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        ) as client:
            while not self._stop.is_set():
                try:
                    outcome: int | str = client.post(
                        f"{self._address}/v1/predict", content=IMAGE, headers=self._headers
                    ).status_code
                except httpx.HTTPError as error:
                    outcome = type(error).__name__
                with self._changed:
                    self.outcomes[outcome] += 1
                    self._changed.notify_all()
