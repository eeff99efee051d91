"""A real S3 server, moto, for stores in a bucket of their own."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import s3fs
from moto.server import ThreadedMotoServer

_buckets = itertools.count()


class S3Server:
    """Moto in a thread. Its objects survive `stop` and `start`, which keep the port."""

    def __init__(self) -> None:
        self._server = self._new(0)
        self.host, self.port = self._server.get_host_and_port()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server = self._new(self.port)

    def new_bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"bucket-{os.getpid()}-{next(_buckets)}"
        httpx.put(f"{self.url}/{name}").raise_for_status()
        return name

    def put(self, path: str, data: bytes) -> None:
        """Write an object without the checks of a model store."""
        self._files().pipe_file(path, data)

    def get(self, path: str) -> bytes:
        data: bytes = self._files().cat_file(path)
        return data

    def _files(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)

    @staticmethod
    def _new(port: int) -> ThreadedMotoServer:
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        server.start()
        server.get_host_and_port()  # waits until it listens
        return server


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """Start the server, and set the variables that S3 clients read."""
    server = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield server
    server.stop()
