"""Fixtures that every test uses."""

from collections.abc import Iterator

import pytest

import model_store  # noqa: F401  turns off telemetry before a test imports onnxruntime


@pytest.fixture(scope="session", autouse=True)
def _no_files_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Services that tests start use temporary directories for cache and API keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield
