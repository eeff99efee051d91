import asyncio

import pytest
from open_load import Generator, Opened, as_request

REQUEST = as_request("/predict", "image/png", b"pixels")
REQUESTS = 60
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def answered_by(answer: bytes, *, together: bool = False) -> Opened:
    """What the generator finds when a server gives this answer (an empty one: hangs up), at once or when all have come."""
    came, all_came = 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        while await reader.read(len(REQUEST)):
            came += 1
            if came == REQUESTS:
                all_came.set()
            if together:
                await all_came.wait()
            writer.write(answer)
            if b"close" in answer or not answer:
                break
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        return await Generator(
            server.sockets[0].getsockname()[1], [REQUEST], rate=300, seconds=REQUESTS / 300
        ).run()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (GOOD, 200),
        (b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\nConnection: close\r\n\r\n", 429),
        (b"", 0),
    ],
    ids=["answered", "refused and closed", "hung up"],
)
async def test_every_request_is_counted_once_by_what_became_of_it(
    answer: bytes, status: int
) -> None:
    """Status 0 is a connection that ended without an answer."""
    found = await answered_by(answer)
    assert found.counts == {status: REQUESTS}
    assert min(found.took[status]) > 0


@pytest.mark.anyio
async def test_slow_answers_do_not_hold_back_requests_that_are_due() -> None:
    """The load is open: a server that answers nothing until all requests have come does get them all."""
    assert (await answered_by(GOOD, together=True)).counts == {200: REQUESTS}
