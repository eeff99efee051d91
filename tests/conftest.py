"""Fixtures that every test uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import model_store  # noqa: F401  turns off telemetry before a test imports onnxruntime


@pytest.fixture(scope="session", autouse=True)
def _no_files_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Services that tests start use temporary directories for cache and API keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


ROOT = Path(__file__).resolve().parent.parent
FILES_BEFORE = pytest.StashKey[set[str]]()


def files_of_checkout() -> set[str]:
    return {path.name for path in ROOT.iterdir() if path.is_file()}


def is_xdist_worker(session: pytest.Session) -> bool:
    return hasattr(session.config, "workerinput")


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[FILES_BEFORE] = files_of_checkout()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if a test left a file in the checkout."""
    left = files_of_checkout() - session.config.stash[FILES_BEFORE]
    if left and not is_xdist_worker(session):
        message = f"ERROR: tests wrote into the checkout instead of tmp_path: {sorted(left)}"
        session.config.get_terminal_writer().line(f"\n{message}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
