"""The image in the pods of the Helm chart and of KServe's runtime: user, mounts, probes, end."""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from clients import Clients
from compose_project import Project, started
from manifests import RUNTIME, find_helm, read, render, variables
from open_inference_calls import infer

from service.key_file import ApiKey, hash_secret

MODEL_IMAGE_USER = 1010  # as whom KServe runs the container of an OCI image's model
RANDOM_USER = 1000660000  # as OpenShift picks them, with the group 0
KEY = "resident_of-the-test"
VERSION = Path(__file__).parents[2] / "model_store/builtin/digits-resnet20/1"


@contextmanager
def pod(
    project: Project,
    container: Mapping[str, Any],
    user: str,
    mounts: Mapping[str, str],
    group: int = 0,
) -> Iterator[str]:
    """Run one container as a kubelet does; yields its id.

    Args:
        project: Runs the commands.
        container: The container of a pod.
        user: User and group.
        group: Supplementary group, the `fsGroup` of the pod.
        mounts: `--volume` options by mount path. Other mounts are empty directories of everyone.
    """
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    port = container["ports"][0]["containerPort"]
    limits = container["resources"]["limits"]
    options = ["--read-only", "--read-only-tmpfs=false"] if project.is_podman else ["--read-only"]
    for mount in container["volumeMounts"]:
        path = mount["mountPath"]
        if path not in mounts:
            options += ["--tmpfs", f"{path}:rw,mode=1777,size=256m"]
    for volume in mounts.values():
        options += ["--volume", volume]
    for name, text in variables(container).items():
        options += ["--env", f"{name}={text}"]
    name = f"resident-pod-{secrets.token_hex(4)}"
    project.docker(
        *("run", "--detach", "--name", name, "--user", user),
        *("--group-add", str(group), "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--publish", f"127.0.0.1::{port}"),
        *("--cpus", limits["cpu"], "--memory", limits["memory"].removesuffix("i")),
        *options,
        "resident-service",
        *(text.replace("{{.Name}}", "my-digits") for text in container.get("args", [])),
    )
    try:
        yield name
    finally:
        project.docker("rm", "--force", "--volumes", name)


def wait_for(client: httpx.Client, project: Project, name: str, probe: Mapping[str, Any]) -> None:
    """Send an HTTP probe until it succeeds."""
    path = probe["httpGet"]["path"]
    while True:
        try:
            if client.get(path).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:  # the port is not open yet
            pass
        assert project.state(name, "{{.State.Running}}") == "true", project.run(
            "docker", "logs", name
        )


def end_under_load(project: Project, name: str, port: int, *, key: str = "") -> None:
    """Send SIGTERM while requests arrive, as Kubernetes does. None is lost; exit code 0."""
    with Clients(project.address(name, port), key=key) as clients:
        clients.wait_for(50)
        project.docker("kill", "--signal", "TERM", name)
        clients.wait_for(50)  # during the drain delay
        clients.stop()
    assert set(clients.outcomes) == {200}
    assert project.docker("wait", name) == "0"


@pytest.fixture
def engine(docker: str) -> Iterator[Project]:
    """Runs commands; starts nothing by itself."""
    with started(docker, {}) as project:
        yield project


@pytest.mark.parametrize(
    ("link", "user"),
    [(False, RANDOM_USER), (True, MODEL_IMAGE_USER)],
    ids=["directory", "link"],
)
def test_kserve_runs_the_image(link: bool, user: int, engine: Project, tmp_path: Path) -> None:
    """Arguments, probes and SIGTERM as in the runtime; /mnt/models is read-only or a link."""
    (container,) = read(RUNTIME)[0]["spec"]["containers"]
    if link:
        (tmp_path / "models").symlink_to("/proc/self/root/version")
        tmp_path.chmod(0o755)
        mounts = {"link": f"{tmp_path}:/mnt:ro", "version": f"{VERSION}:/version:ro"}
    else:
        mounts = {"models": f"{VERSION}:/mnt/models:ro"}
    with pod(engine, container, f"{user}:0", mounts) as name:
        with httpx.Client(
            base_url=engine.address(name, 8080), timeout=60, trust_env=False
        ) as client:
            wait_for(client, engine, name, container["livenessProbe"])
            wait_for(client, engine, name, container["readinessProbe"])
            assert infer(client, "my-digits") == ["7"]
        end_under_load(engine, name, 8080)


@pytest.mark.skipif(find_helm() is None, reason="needs helm; `make helm` installs it")
def test_the_chart_runs_the_image(engine: Project, tmp_path: Path) -> None:
    """The keys are a secret as Kubernetes mounts it, and the store is an empty volume."""
    manifests = render("keys: {existingSecret: resident-keys}")
    spec = manifests["Deployment"]["spec"]["template"]["spec"]
    security = spec["securityContext"]
    (container,) = spec["containers"]
    keys = mounted_secret(tmp_path, security["fsGroup"])
    user = f"{security['runAsUser']}:{security['runAsGroup']}"
    group = security["fsGroup"]
    with pod(engine, container, user, {"/keys": f"{keys}:/keys:ro"}, group) as name:
        with httpx.Client(base_url=engine.address(name), timeout=60, trust_env=False) as client:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                wait_for(client, engine, name, container[probe])
            refused = client.post("/v1/predict", content=b"")
            assert refused.status_code == httpx.codes.UNAUTHORIZED
        end_under_load(engine, name, 8000, key=KEY)


def mounted_secret(folder: Path, group: int) -> Path:
    """Write a secret as a kubelet does: keys.json -> ..data/keys.json, ..data -> a directory."""
    content = folder / "..2026"
    content.mkdir()
    file = content / "keys.json"
    key = ApiKey(
        name="app",
        scopes=("predict",),
        sha256=hash_secret(KEY),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    keys = [key.model_dump(mode="json")]
    file.write_text(json.dumps({"schema_version": 1, "keys": keys}))
    file.chmod(0o440)
    if os.getuid() == 0:
        os.chown(file, 0, group)
    (folder / "..data").symlink_to("..2026")
    (folder / "keys.json").symlink_to("..data/keys.json")
    folder.chmod(0o755)
    return folder
