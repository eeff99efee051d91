"""Containers of the images of this checkout. Every test is skipped where no engine answers."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from compose_project import BASE_IMAGE, MakeProject, Project, answers, find_docker, started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Building images takes a minute, so `make test` leaves these tests out."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of the command `docker`, once the images are built."""
    found = find_docker(tmp_path_factory.mktemp("docker"))
    if found is None:
        pytest.skip("needs docker with docker compose, or podman with podman-compose")
    command = f"{found}/docker"
    if not answers(command, "image", "inspect", BASE_IMAGE) and not answers(
        command, "pull", BASE_IMAGE
    ):
        pytest.skip(f"the base image {BASE_IMAGE} is not here and cannot be pulled")
    Project("resident-test", found, {}).compose("--profile", "proxy", "build", "service", "proxy")
    return found


@pytest.fixture
def make_project(docker: str) -> Iterator[MakeProject]:
    """Makes a project with these variables, which is removed after the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(started(docker, settings))


@pytest.fixture(scope="module")
def project(docker: str) -> Iterator[Project]:
    """One replica that the tests of a module share."""
    with started(docker, {"MEMORY": "1g", "PIDS": "200", "TMP_SIZE": "32m"}) as project:
        project.up("service")
        yield project


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `tls.crt` and `tls.key`, made as the documentation says."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]  # noqa: RUF005
        + ["-subj", "/CN=localhost", "-keyout", "tls.key", "-out", "tls.crt"],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    folder.chmod(0o755)
    (folder / "tls.key").chmod(0o644)
    return folder
