"""The built-in digits model and its data."""

from collections.abc import Iterator

import pytest

from model_store.store import BUILTIN_ROOT, ModelStore
from model_store.version import Version
from training.quantization.version_data import open_version_data
from training.run.data import RunData

DIGITS = "digits-resnet20"


@pytest.fixture(scope="session")
def digits() -> Iterator[Version]:
    with ModelStore(BUILTIN_ROOT, builtin_root=None).open(DIGITS, 1) as version:
        yield version


@pytest.fixture(scope="session")
def digits_graph(digits: Version) -> bytes:
    return digits.path("model.onnx").read_bytes()


@pytest.fixture(scope="session")
def digits_data(digits: Version) -> RunData:
    """The images that it was trained on."""
    return open_version_data(digits, ())
