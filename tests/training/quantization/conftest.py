"""The built-in digits model and its data."""

from collections.abc import Iterator

import pytest
from older_digits import DIGITS, publish_older_digits

from model_store.version import Version
from training.quantization.version_data import open_version_data
from training.run.data import RunData


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Version]:
    """In fp32 only."""
    store = publish_older_digits(tmp_path_factory.mktemp("digits") / "store")
    with store.open(DIGITS, 1) as version:
        yield version


@pytest.fixture(scope="session")
def digits_graph(digits: Version) -> bytes:
    return digits.path("model.onnx").read_bytes()


@pytest.fixture(scope="session")
def digits_data(digits: Version) -> RunData:
    """The images that it was trained on."""
    return open_version_data(digits, ())
