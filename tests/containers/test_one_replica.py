"""One replica of docker compose: it becomes healthy, keeps its volume, and drains."""

import os
import threading
from pathlib import Path

import httpx
from clients import IMAGE, Clients
from compose_project import HEALTHCHECK, MakeProject, Project

from model_store.store import ModelStore

DRAIN_DELAY_SECONDS = 3


def test_it_becomes_healthy_and_predicts(make_project: MakeProject) -> None:
    """The health check of the image fails before the service is ready, and then succeeds."""
    project = make_project()
    (container,) = project.up("service")
    assert project.state(container, "{{json .Config.Healthcheck.Test}}") == (
        '["CMD",' + ",".join(f'"{part}"' for part in HEALTHCHECK) + "]"
    )
    wrong = project.run(
        *("docker", "exec", "--env", "SERVICE_PORT=1", container, *HEALTHCHECK), check=False
    )
    assert wrong.returncode == 1
    with project.client(container) as client:
        result = client.post("/v1/models/digits-resnet20/predict", content=IMAGE).json()
    assert result["results"][0]["predictions"][0]["label"] == "7"


def test_a_volume_receives_a_model_and_survives(make_project: MakeProject, tmp_path: Path) -> None:
    """A copied model is served without a restart, and again after `down` and `up`."""
    source = tmp_path / "store"
    publish_builtin(source, "digits-resnet20")
    project = make_project(SERVICE_BUILTIN="false", SERVICE_DEFAULT_MODEL="digits-resnet20")
    project.compose("up", "--detach", "--no-build", "service")
    (container,) = project.containers()
    volume = ("--volume", f"{source}:/from:ro")
    project.compose(
        *("run", "--rm", "--no-deps", *volume, "--entrypoint", "python", "service"),
        *("-m", "model_store", "copy", "/from", "/models", "digits-resnet20"),
    )
    project.wait_until_ready(container)
    assert served(project, container) == ["digits-resnet20"]

    project.down()
    assert project.containers() == []
    (container,) = project.up("service")
    assert served(project, container) == ["digits-resnet20"]


def test_a_store_of_the_host_can_be_promoted_in(make_project: MakeProject, tmp_path: Path) -> None:
    """With RESIDENT_UID, a container changes a folder of the host, and files belong to its user."""
    owner = 4321 if os.getuid() == 0 else os.getuid()
    store = tmp_path / "store"
    publish_builtin(store, "digits-resnet20")
    publish_builtin(store, "digits-resnet20")
    if os.getuid() == 0:
        for path in [store, *store.rglob("*")]:
            os.chown(path, owner, owner)
    project = make_project(STORE=str(store), RESIDENT_UID=str(owner))
    (container,) = project.up("service")
    promote = ("python", "-m", "model_store", "promote", "digits-resnet20", "1")
    project.docker("exec", container, *promote)
    aliases = ModelStore(store, builtin_root=None).aliases("digits-resnet20")
    assert aliases.version("production") == 1
    assert {path.stat().st_uid for path in store.rglob("*")} == {owner}


def test_sigterm_drains_under_load(make_project: MakeProject) -> None:
    """Clients that stop when it is not ready get every answer, and the exit code is 0."""
    project = make_project(SERVICE_DRAIN_DELAY_SECONDS=str(DRAIN_DELAY_SECONDS))
    (container,) = project.up("service")
    with Clients(project.address(container)) as clients, project.client(container) as client:
        clients.wait_for(50)
        stopping = threading.Thread(target=project.docker, args=("stop", "--time", "60", container))
        stopping.start()
        while client.get("/health/ready").status_code == httpx.codes.OK:
            pass
        clients.wait_for(20)  # those that were sent during the drain delay
        clients.stop()
        stopping.join()
    assert set(clients.outcomes) == {200}
    assert project.state(container, "{{.State.ExitCode}}") == "0"


def test_half_a_cpu_and_little_memory_are_respected(make_project: MakeProject) -> None:
    """Under load, a container of 0.5 CPUs and 512 MiB is throttled and not killed."""
    project = make_project(CPUS="0.5", MEMORY="512m")
    (container,) = project.up("service")
    with Clients(project.address(container), threads=8) as clients:
        clients.wait_for(200)
    assert set(clients.outcomes) == {200}
    assert project.state(container, "{{.State.OOMKilled}} {{.State.Running}}") == "false true"
    throttled = "cat /sys/fs/cgroup/cpu.stat /sys/fs/cgroup/cpu/cpu.stat 2>/dev/null || true"
    statistics = project.docker("exec", container, "sh", "-c", throttled).splitlines()
    assert int(dict(map(str.split, statistics))["nr_throttled"]) > 0


def publish_builtin(store: Path, model: str) -> None:
    """Publish a built-in model's version in a store, as a run of training does."""
    store.mkdir(exist_ok=True)
    with ModelStore().open(model, 1) as version:
        fields = version.manifest.model_dump(exclude={"files", "model"})
        files = {entry.path: version.path(entry.path) for entry in version.manifest.files}
        ModelStore(store, builtin_root=None).publish(model, fields, files)


def served(project: Project, container: str) -> list[str]:
    with project.client(container) as client:
        return [model["model"] for model in client.get("/v1/models").json()["models"]]
