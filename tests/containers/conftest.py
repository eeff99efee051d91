"""Containers of the images of this checkout. Every test is skipped where no engine answers."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from compose_project import BASE_IMAGE, MakeProject, Project, answers, find_docker, started

DISK_BYTES = 4_000_000_000
LABEL = "org.opencontainers.image.vendor=Resident"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Building images takes a minute, so `make test` leaves these tests out."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The directory of the command `docker`, once the images are built.

    Afterwards, untagged images of the Dockerfile are removed. Stages with installed
    packages have a tag, so that they stay and the next build takes seconds.
    """
    found = find_docker(tmp_path_factory.mktemp("docker"))
    if found is None:
        pytest.skip(
            "no container engine answers: start docker (with docker compose) or install podman and "
            "podman-compose"
        )
    command = f"{found}/docker"
    if not answers(command, "image", "inspect", BASE_IMAGE) and not answers(
        command, "pull", BASE_IMAGE
    ):
        pytest.skip(
            f"the base image {BASE_IMAGE} is missing and cannot be pulled; set BASE_IMAGE to "
            "another image with Python"
        )
    project = Project("resident-test", found, {})
    check_disk(project)
    try:
        project.compose("--profile", "proxy", "build", "service", "proxy")
        project.build("service-environment", "resident-test-environment")
        yield found
    finally:
        project.docker("image", "prune", "--force", "--filter", f"label={LABEL}")


def check_disk(project: Project) -> None:
    """Fail if the engine has too little disk space for the images and containers of all tests."""
    template = "{{.Store.GraphRoot}}" if project.is_podman else "{{.DockerRootDir}}"
    root = Path(project.docker("info", "--format", template))
    if not root.exists():  # the engine runs on another machine
        return
    free = shutil.disk_usage(root).free
    if free < DISK_BYTES:
        pytest.fail(
            f"The container tests need {DISK_BYTES / 1e9:.0f} GB of free disk space for {root}, "
            f"which has {free / 1e9:.1f} GB. `docker system df` or `podman system df` shows what "
            "uses it, and `image prune` removes images that nothing uses.",
            pytrace=False,
        )


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
