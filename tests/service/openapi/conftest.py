"""One server for all tests of the OpenAPI document."""

from collections.abc import Iterator

import pytest
from documented_server import DocumentedServer, serving_documented


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentedServer]:
    with serving_documented(tmp_path_factory.mktemp("documented")) as server:
        yield server
