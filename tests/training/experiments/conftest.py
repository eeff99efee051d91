"""A laboratory that all tests of experiments share: what is trained in it is trained once."""

import pytest
from laboratories import laboratory_at

from training.experiments.laboratory import Laboratory


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """On the digits, trainings of 12 steps."""
    return laboratory_at(tmp_path_factory.mktemp("laboratory"))
