"""The client for programs without asyncio."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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


class Client:
    """Classifies images with a running service. Several threads may use it at once.

    Args:
        url: Address of the service, with the prefix of a proxy if there is one.
        api_key: A key with the scope `predict`, if the service requires one.
        timeout: Seconds for a connection, and for each part of a response to arrive.
        retries: How often a request is sent again after 429, 502, 503 or a failed connection.
        max_wait_seconds: If `Retry-After` is longer, the error is raised at once.
        httpx_options: Further options of `httpx.Client`, like `verify` or `proxy`.
    """

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
        self._http = httpx.Client(base_url=check_url(url), timeout=timeout, **httpx_options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, image: ImageInput, **options: Unpack[PredictOptions]) -> Result:
        """Classify one image.

        Args:
            image: A path, a URL, bytes, an open file, a PIL image, or a uint8 array of pixels.
            options: See `PredictOptions`.

        Raises:
            ImageInputError: The image cannot be read.
            ResponseError: The service answered with an error.
            ConnectionFailedError: The service does not answer.
        """
        return self._run(self._core.process_one(PREDICT, image, options))

    def predict_many(
        self,
        images: Iterable[ImageInput],
        *,
        batch_size: int = BATCH_SIZE,
        concurrency: int = CONCURRENCY,
        progress: Progress = False,
        **options: Unpack[PredictOptions],
    ) -> Iterator[Result]:
        """Classify any number of images, and yield their results in order.

        An image that cannot be read or classified gets a result with an `error`. Images are read
        when they are sent, so a folder of any size needs little memory.

        Args:
            images: Each as in `predict`.
            batch_size: Images in one request.
            concurrency: Requests at the same time.
            progress: True draws a bar on a terminal; a function gets `(done, total)`.
            options: See `PredictOptions`. The default `priority` is 2 (bulk).

        Raises:
            ResponseError: The service rejected a whole request.
            ConnectionFailedError: The service does not answer.
        """
        options.setdefault("priority", 2)
        return self._run_batches(PREDICT, images, options, batch_size, concurrency, progress)

    def embed(self, image: ImageInput, **options: Unpack[EmbedOptions]) -> Embedding:
        """Return the embedding of one image: the pooled features before the last layer.

        Args:
            image: As in `predict`.
            options: See `EmbedOptions`.

        Raises:
            ImageInputError: The image cannot be read.
            ResponseError: The service answered with an error.
            ConnectionFailedError: The service does not answer.
        """
        return self._run(self._core.process_one(EMBED, image, options))

    def embed_many(
        self,
        images: Iterable[ImageInput],
        *,
        batch_size: int = BATCH_SIZE,
        concurrency: int = CONCURRENCY,
        progress: Progress = False,
        **options: Unpack[EmbedOptions],
    ) -> Iterator[Embedding]:
        """As `predict_many`, for embeddings."""
        options.setdefault("priority", 2)
        return self._run_batches(EMBED, images, options, batch_size, concurrency, progress)

    def models(self) -> list[dict[str, Any]]:
        """List the models, as `GET /v1/models` shows them."""
        return self._run(self._core.models())

    def model(self, name: str) -> dict[str, Any]:
        """Show a model, as `GET /v1/models/{model}` does."""
        return self._run(self._core.model(name))

    def ready(self) -> bool:
        """Whether the service may receive traffic. False too if it does not answer."""
        return self._run(self._core.ready())

    def _run_batches(
        self,
        operation: Operation[T],
        images: Iterable[ImageInput],
        options: EmbedOptions,
        batch_size: int,
        concurrency: int,
        progress: Progress,
    ) -> Iterator[T]:
        batches = split_batches(images, batch_size)
        running: deque[Future[list[T]]] = deque()
        pool = ThreadPoolExecutor(concurrency)
        try:
            with count_progress(progress, images) as advance:
                while True:
                    while len(running) < concurrency and (batch := next(batches, None)):
                        running.append(
                            pool.submit(self._run, self._core.process(operation, batch, options))
                        )
                    if not running:
                        return
                    results = running.popleft().result()
                    advance(len(results))
                    yield from results
        finally:
            pool.shutdown(cancel_futures=True)

    def _run(self, flow: Flow[T]) -> T:
        """Do the steps of a flow until it returns."""
        try:
            step = next(flow)
            while True:
                try:
                    outcome = self._do(step)
                except Exception as error:  # noqa: BLE001  the flow decides what it means
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as done:
            result: T = done.value
            return result

    def _do(self, step: Step) -> Any:
        match step:
            case Send():
                return self._http.request(**step.arguments)
            case Download():
                request = download_request(step, self._http.timeout)
                return self._http.send(request, auth=None, follow_redirects=True)
            case Encode():
                return encode_image(step.image)
            case _:
                return time.sleep(step.seconds)
