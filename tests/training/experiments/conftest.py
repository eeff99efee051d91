"""A laboratory shared by all tests of experiments, so that each network is trained once."""

import pytest
from laboratories import laboratory_at

from training.experiments.laboratory import Laboratory


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """Trains on the digits for 12 steps."""
    return laboratory_at(tmp_path_factory.mktemp("laboratory"))
