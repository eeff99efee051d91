"""The client for asyncio."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from resident_client.core import EMBED, PREDICT, Core, Operation, split_batches
from resident_client.images import ImageInput, encode_image
from resident_client.options import (
    BATCH_SIZE,
    CONCURRENCY,
    DEFAULT_URL,
    MAX_WAIT_SECONDS,
    RETRIES,
    TIMEOUT_SECONDS,
    EmbedOptions,
    PredictOptions,
    check_url,
)
from resident_client.progress import Progress, count_progress
from resident_client.results import Embedding, Result
from resident_client.steps import Download, Encode, Flow, Send, Step, download_request

T = TypeVar("T")


class AsyncClient:
    """Like `Client`, for asyncio. Arguments, results and errors are the same."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        retries: int = RETRIES,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        **httpx_options: Any,
    ) -> None:
        self._core = Core(api_key, retries, max_wait_seconds)
        self._http = httpx.AsyncClient(base_url=check_url(url), timeout=timeout, **httpx_options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def predict(self, image: ImageInput, **options: Unpack[PredictOptions]) -> Result:
        """As `Client.predict`."""
        return await self._run(self._core.process_one(PREDICT, image, options))

    def predict_many(
        self,
        images: Iterable[ImageInput],
        *,
        batch_size: int = BATCH_SIZE,
        concurrency: int = CONCURRENCY,
        progress: Progress = False,
        **options: Unpack[PredictOptions],
    ) -> AsyncIterator[Result]:
        """As `Client.predict_many`, for `async for`."""
        options.setdefault("priority", 2)
        return self._run_batches(PREDICT, images, options, batch_size, concurrency, progress)

    async def embed(self, image: ImageInput, **options: Unpack[EmbedOptions]) -> Embedding:
        """As `Client.embed`."""
        return await self._run(self._core.process_one(EMBED, image, options))

    def embed_many(
        self,
        images: Iterable[ImageInput],
        *,
        batch_size: int = BATCH_SIZE,
        concurrency: int = CONCURRENCY,
        progress: Progress = False,
        **options: Unpack[EmbedOptions],
    ) -> AsyncIterator[Embedding]:
        """As `Client.embed_many`, for `async for`."""
        options.setdefault("priority", 2)
        return self._run_batches(EMBED, images, options, batch_size, concurrency, progress)

    async def models(self) -> list[dict[str, Any]]:
        """As `Client.models`."""
        return await self._run(self._core.models())

    async def model(self, name: str) -> dict[str, Any]:
        """As `Client.model`."""
        return await self._run(self._core.model(name))

    async def ready(self) -> bool:
        """As `Client.ready`."""
        return await self._run(self._core.ready())

    async def _run_batches(
        self,
        operation: Operation[T],
        images: Iterable[ImageInput],
        options: EmbedOptions,
        batch_size: int,
        concurrency: int,
        progress: Progress,
    ) -> AsyncIterator[T]:
        batches = split_batches(images, batch_size)
        running: deque[asyncio.Task[list[T]]] = deque()
        try:
            with count_progress(progress, images) as advance:
                while True:
                    while len(running) < concurrency and (batch := next(batches, None)):
                        running.append(
                            asyncio.create_task(
                                self._run(self._core.process(operation, batch, options))
                            )
                        )
                    if not running:
                        return
                    results = await running.popleft()
                    advance(len(results))
                    for result in results:
                        yield result
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, flow: Flow[T]) -> T:
        """Do the steps of a flow until it returns."""
        try:
            step = next(flow)
            while True:
                try:
                    outcome = await self._do(step)
                except Exception as error:  # noqa: BLE001  the flow decides what it means
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _do(self, step: Step) -> Any:
        match step:
            case Send():
                return await self._http.request(**step.arguments)
            case Download():
                request = download_request(step, self._http.timeout)
                return await self._http.send(request, auth=None, follow_redirects=True)
            case Encode():
                return await asyncio.to_thread(encode_image, step.image)
            case _:
                return await asyncio.sleep(step.seconds)
