"""Exchanges readiness, an operator's decisions, trials and counts between workers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

from pydantic import TypeAdapter

from service.engine.warm_model import Measurement
from service.versions.desired_versions import Override
from service.versions.reconciler import adopt_overrides
from service.versions.registry import Registry
from service.versions.trial_exchange import TrialExchange
from service.versions.trial_records import TrialRecord
from service.workers.exchange import Counts, Exchange
from service.workers.hub import COUNTS
from service.workers.link import Link, LinkClosedError

STATE_INTERVAL_SECONDS: Final = 0.1
COUNTS_INTERVAL_SECONDS: Final = 1.0
COUNTS_TIMEOUT_SECONDS: Final = 1.0
ADOPT_TIMEOUT_SECONDS: Final = 300.0
"""Includes loading versions. The hub gives up earlier on a worker that hangs (`SILENT_SECONDS`)."""
_ADOPT: Final = "adopt"
_CHANGE: Final = "change"
_OVERRIDES: Final = "overrides"
_TRIAL: Final = "trial "
_ANNOUNCED: Final = "announced"
_Overrides = TypeAdapter(dict[str, dict[int, Override]])


class LinkedTrials(TrialExchange):
    """Lets only one worker try a version, and sends the result to the others."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @contextmanager
    def exclusive(self, key: str) -> Iterator[None]:
        lock = self._link.lock(f"{_TRIAL}{key}")
        try:
            asyncio.run_coroutine_threadsafe(lock.__aenter__(), self._link.loop).result()
        except (LinkClosedError, CancelledError):  # the worker is stopping, and so are its trials
            yield
            return
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(lock.__aexit__(None, None, None), self._link.loop)

    def publish(self, key: str, record: TrialRecord, measurement: Measurement | None) -> None:
        value = {
            "record": record.model_dump_json(),
            "measurement": measurement and measurement.model_dump_json(),
        }
        self._link.loop.call_soon_threadsafe(self._link.share, f"{_TRIAL}{key}", value)


class LinkedExchange(Exchange):
    """Connects one worker's registry and counts with those of the others."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.is_first = link.number == 1
        self.trials = LinkedTrials(link)
        self._link = link
        self._counting: asyncio.Task[list[Counts]] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, registry: Registry) -> None:
        async def adopt(value: Any) -> None:
            await asyncio.to_thread(adopt_overrides, registry, _Overrides.validate_python(value))

        async def count(_: None) -> Counts:
            return self.read_counts()

        link = self._link
        link.answers = {_ADOPT: adopt, COUNTS: count}
        link.on_shared = lambda key, value: _adopt_trial(registry, key, value)
        link.on_states = self._announce_once
        registry.why_others_are_not_ready = self._why_others_are_not_ready
        await link.start()
        for key, value in link.shared.items():
            _adopt_trial(registry, key, value)
        registry.set_overrides(_Overrides.validate_python(link.shared.get(_OVERRIDES, {})))
        self._tasks = [
            asyncio.create_task(self._publish_state(registry)),
            asyncio.create_task(self._publish_counts()),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()

    @asynccontextmanager
    async def change(self, registry: Registry) -> AsyncIterator[None]:
        async with self._link.lock(_CHANGE):
            try:
                yield
            finally:
                overrides = registry.all_overrides()
                self._link.share(_OVERRIDES, overrides)
                await self._link.ask(_ADOPT, overrides, ADOPT_TIMEOUT_SECONDS)

    async def counts_of_others(self) -> list[Counts]:
        if self._counting is None or self._counting.done():  # otherwise, wait for the running query
            self._counting = asyncio.create_task(self._ask_counts())
        return await asyncio.shield(self._counting)

    async def _ask_counts(self) -> list[Counts]:
        # The hub stores them first: if this worker ends now, counters must not fall.
        self._link.send_counts(self.read_counts())
        with suppress(LinkClosedError):
            return await self._link.ask(COUNTS, None, COUNTS_TIMEOUT_SECONDS)
        return []

    async def _publish_counts(self) -> None:
        """Send the counts of this worker to the hub, which keeps them if the worker dies."""
        while True:
            await asyncio.sleep(COUNTS_INTERVAL_SECONDS)
            self._link.send_counts(self.read_counts())

    async def _publish_state(self, registry: Registry) -> None:
        while True:
            state = {
                "ready": registry.ready,
                "loaded": not registry.starting,
                "stopped": registry.stopped_parts,
            }
            if state != self._link.states.get(self._link.number):
                self._link.set_state(**state)
                self._announce_once()
            await asyncio.sleep(STATE_INTERVAL_SECONDS)

    def _why_others_are_not_ready(self) -> str | None:
        link = self._link
        for number in range(1, link.workers + 1):
            state = link.states.get(number, {})
            if number != link.number and not state.get("ready"):
                reason = "its models are not ready" if state.get("loaded") else "it is starting"
                return f"worker {number} of {link.workers}: {reason}"
        return None

    def _announce_once(self) -> None:
        link = self._link
        if not self.is_first or link.shared.get(_ANNOUNCED):
            return
        numbers = range(1, link.workers + 1)
        if all(link.states.get(number, {}).get("loaded") for number in numbers):
            link.share(_ANNOUNCED, value=True)
            self.on_all_loaded()


def _adopt_trial(registry: Registry, key: str, value: Any) -> None:
    if registry.trials and key.startswith(_TRIAL):
        measurement = value["measurement"]
        registry.trials.adopt_result(
            key.removeprefix(_TRIAL),
            TrialRecord.model_validate_json(value["record"]),
            Measurement.model_validate_json(measurement) if measurement else None,
        )
