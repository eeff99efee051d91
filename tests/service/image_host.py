"""An HTTPS server with images in the test's process, known as `images.test` and `other.test`.

Its certificate and key are those of OpenSSL 3.4 or newer with::

    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
      -not_before 20200101000000Z -not_after 21200101000000Z -subj "/CN=Tests of Resident" \
      -addext basicConstraints=critical,CA:TRUE \
      -addext subjectAltName=DNS:images.test,DNS:other.test -keyout key.pem -out certificate.pem
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

CERTIFICATE = Path(__file__).with_name("image_host.pem")


@dataclass
class ImageHost:
    """Answers each path with the bytes in `responses`; None answers nothing."""

    responses: dict[str, bytes | None] = field(default_factory=dict)
    requests: list[bytes] = field(default_factory=list)
    port: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, path: str, body: bytes, status: str = "200 OK", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        self.responses[path] = "\r\n".join(lines).encode() + body

    def redirect(self, path: str, location: str) -> None:
        self.add(path, b"", "302 Found", f"Location: {location}")

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            response = self.responses.get(head.split()[1].decode(), b"HTTP/1.1 404 N\r\n\r\n")
            if response is None:
                await reader.read()  # until the client leaves
            else:
                writer.write(response)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.ended.set()
            writer.close()


@asynccontextmanager
async def image_host() -> AsyncIterator[ImageHost]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    host = ImageHost()
    server = await asyncio.start_server(host.answer, "127.0.0.1", 0, ssl=context)
    host.port = server.sockets[0].getsockname()[1]
    async with server:
        yield host
