"""A real service with the built-in models, which the tests of the client share."""

from collections.abc import Iterator

import pytest
from server_process import ServerProcess, running


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    store = tmp_path_factory.mktemp("store")
    limits = ("--max-images", 5, "--max-body-bytes", 300_000)
    with running("--store", store, "--required-models", "cifar10", *limits) as server:
        yield server.announced()
