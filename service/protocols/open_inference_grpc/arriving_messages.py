"""Bounds the memory and the time of messages that are still arriving.

gRPC reveals neither the length of a message nor how much of it has arrived. So each message that is
being received takes one of a few places, as if it had the largest allowed size.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc

from service.errors import BodyTimeoutError, ClientDisconnectedError, ServiceError
from service.prediction.admission import overloaded
from service.protocols.open_inference_grpc.rpc import Context, answering

GRACE_SECONDS: Final = 5.0
"""A message may take this long even if another one waits for its place."""


class ArrivalPlaces:
    """Places for messages that are still arriving.

    If all are taken, the message that has been arriving for the longest time is cancelled, and a
    waiting one gets its place. Otherwise a few slow clients would keep all others out.
    """

    def __init__(
        self, places: int, wait_seconds: float, timeout_seconds: float | None, grace_seconds: float
    ) -> None:
        """Build it.

        Args:
            places: Most messages at the same time.
            wait_seconds: Time to wait for a place.
            timeout_seconds: Time for one message; None for as long as nobody waits.
            grace_seconds: Time that a message has even if others wait for its place.
        """
        self._free = asyncio.Semaphore(places)
        self._wait_seconds = wait_seconds
        self._timeout_seconds = timeout_seconds
        self._grace_seconds = grace_seconds
        self._waiting = 0
        self._started: dict[asyncio.Timeout, float] = {}
        """Start of each message that is not given up yet, oldest first."""

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Hold a place.

        Raises:
            OverloadedError: There was no place, or another message needed it.
            BodyTimeoutError: The message did not arrive in time.
        """
        await self._wait()
        limit = asyncio.timeout(self._timeout_seconds)
        self._started[limit] = asyncio.get_running_loop().time()
        try:
            async with limit:
                if self._waiting:
                    self._give_up_oldest()
                yield
        except TimeoutError:
            if limit not in self._started:
                raise _too_many() from None
            raise BodyTimeoutError(
                f"the message did not arrive within {self._timeout_seconds:g} s"
            ) from None
        finally:
            self._started.pop(limit, None)
            self._free.release()

    async def _wait(self) -> None:
        if self._free.locked():
            self._give_up_oldest()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._free.acquire()
        except TimeoutError:
            raise _too_many() from None
        finally:
            self._waiting -= 1

    def _give_up_oldest(self) -> None:
        """End the grace of the oldest message, once for each message that waits."""
        oldest = next((each for each in self._started if not each.expired()), None)
        if oldest:
            now = asyncio.get_running_loop().time()
            oldest.reschedule(max(now, self._started.pop(oldest) + self._grace_seconds))


class ArrivalLimits(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # it has no types
    """Reads the messages of all services within `ArrivalPlaces`.

    A method that gets one message becomes one that gets a stream, which is the same for clients:
    gRPC would read the one message before it calls us.
    """

    def __init__(self, places: int, timeout_seconds: float) -> None:
        """Build it.

        Args:
            places: Most messages of calls, and most of streams, that arrive at the same time.
            timeout_seconds: Time for the message of a call. A stream may be idle for as long as
                nobody else needs its place.
        """
        self._calls = ArrivalPlaces(places, timeout_seconds, timeout_seconds, GRACE_SECONDS)
        self._streams = ArrivalPlaces(places, timeout_seconds, None, timeout_seconds)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        name = handler_call_details.method.rpartition("/")[2]
        coders = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary:
            return grpc.stream_unary_rpc_method_handler(
                self._read_one(name, handler.unary_unary), *coders
            )
        if handler.unary_stream:
            return grpc.stream_stream_rpc_method_handler(
                self._read_one(name, handler.unary_stream), *coders
            )
        return grpc.stream_stream_rpc_method_handler(
            self._read_many(handler.stream_stream), *coders
        )

    def _read_one(self, name: str, handle: Callable[[Any, Context], Awaitable[Any]]) -> Any:
        async def call(requests: AsyncIterator[Any], context: Context) -> Any:
            try:
                async with self._calls.take():
                    request = await anext(aiter(requests), None)
                if request is None:  # the client left, or ended the call without a message
                    raise ClientDisconnectedError
            except (ServiceError, ClientDisconnectedError):
                async with answering(context, name):
                    raise
            return await handle(request, context)

        return call

    def _read_many(self, handle: Callable[[AsyncIterator[Any], Context], Any]) -> Any:
        async def read(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            messages = aiter(requests)
            while True:
                async with self._streams.take():
                    request = await anext(messages, None)
                if request is None:
                    return
                yield request

        if inspect.isasyncgenfunction(handle):

            async def answer(requests: AsyncIterator[Any], context: Context) -> Any:
                async for response in handle(read(requests), context):
                    yield response

            return answer

        async def call(requests: AsyncIterator[Any], context: Context) -> None:
            await handle(read(requests), context)

        return call


def _too_many() -> ServiceError:
    return overloaded("too many gRPC messages are arriving at the same time", reason="upload_bytes")
