"""Three replicas behind the proxy: no client sees one of them stop."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from clients import Clients
from compose_project import Project, started

REPLICAS = 3


@pytest.fixture(scope="module")
def replicated(docker: str, certificate: Path) -> Iterator[Project]:
    """The profile `proxy` with three replicas; the proxy has a free port."""
    settings = {"TLS_DIR": str(certificate), "HTTPS_PORT": "", "COMPOSE_PROFILES": "proxy"}
    with started(docker, settings) as project:
        project.up("service", "proxy", replicas=REPLICAS)
        yield project


def https(project: Project) -> str:
    (proxy,) = project.containers("proxy")
    return project.address(proxy, 8443).replace("http:", "https:")


def test_every_replica_serves_through_tls(replicated: Project) -> None:
    with Clients(https(replicated)) as clients:
        clients.wait_for(60)
    assert set(clients.outcomes) == {200}
    for container in replicated.containers():
        with replicated.client(container) as client:
            assert (
                'resident_requests_total{model="cifar10",outcome="ok"}'
                in client.get("/metrics").text
            )
    with httpx.Client(
        base_url=https(replicated),
        verify=False,  # noqa: S501  the test's own certificate
        trust_env=False,
    ) as client:
        assert client.get("/metrics").status_code == 404
        assert client.get("/v1/models").status_code == 200


def test_a_killed_replica_fails_no_request(replicated: Project) -> None:
    """Requests that it was computing are sent to another replica, and those after it too."""
    victim, *others = replicated.containers()
    with Clients(https(replicated), threads=6) as clients:
        clients.wait_for(100)
        replicated.docker("kill", "--signal", "KILL", victim)
        clients.wait_for(300)
    assert set(clients.outcomes) == {200}
    replicated.docker("start", victim)
    for container in (victim, *others):
        replicated.wait_until_ready(container)


def test_a_rolling_restart_fails_no_request(replicated: Project) -> None:
    """deploy/rolling-restart.sh replaces every replica under load."""
    before = set(replicated.containers())
    with Clients(https(replicated), threads=3) as clients:
        clients.wait_for(100)
        replicated.run("deploy/rolling-restart.sh")
        clients.wait_for(100)
    assert set(clients.outcomes) == {200}
    after = set(replicated.containers())
    assert len(after) == REPLICAS
    assert not before & after
