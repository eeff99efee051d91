"""KServe's ServingRuntime, and the service started with its arguments."""

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import kubernetes_validate
import pytest
from manifests import DEPLOY, RUNTIME, read, variables
from open_inference_calls import infer
from server_process import REPOSITORY, ServerProcess

NAME = "my-digits"
VERSION = REPOSITORY / "model_store/builtin/digits-resnet20/1"


def test_the_pod_of_the_runtime_has_the_fields_of_kubernetes() -> None:
    """KServe copies the runtime's containers and volumes into a pod."""
    (runtime,) = read(RUNTIME)
    spec = {key: runtime["spec"][key] for key in ("containers", "volumes")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_the_runtime_keeps_the_conventions_of_kserve() -> None:
    (runtime,) = read(RUNTIME)
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    assert [port["containerPort"] for port in container["ports"]] == [8080]
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8080}
    settings = variables(container)
    drain = ("SERVICE_DRAIN_DELAY_SECONDS", "SERVICE_SHUTDOWN_SECONDS")
    assert sum(float(settings[name]) for name in drain) < 30  # terminationGracePeriodSeconds


def test_every_example_selects_the_runtime() -> None:
    (runtime,) = read(RUNTIME)
    formats = {entry["name"] for entry in runtime["spec"]["supportedModelFormats"]}
    examples = sorted((DEPLOY / "kserve").glob("inferenceservice-*.yaml"))
    schemes = set()
    for path in examples:
        (manifest,) = read(path)
        model = manifest["spec"]["predictor"]["model"]
        assert model["modelFormat"]["name"] in formats
        assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
        schemes.add(model["storageUri"].split("://")[0])
    assert schemes == {"pvc", "s3", "oci"}


def copied(models: Path) -> None:
    """The storage initializer has downloaded the version, before the container starts."""
    shutil.copytree(VERSION, models)


def linked(models: Path) -> None:
    """The version is in an OCI image. A link to its container may appear after the start."""
    models.symlink_to(VERSION)


@pytest.mark.parametrize(
    ("provide", "late"), [(copied, False), (linked, False), (linked, True)],
    ids=["copied", "linked", "linked later"],
)  # fmt: skip
def test_the_arguments_serve_the_mounted_version(
    provide: Callable[[Path], None], late: bool, tmp_path: Path
) -> None:
    """It is not ready while the version is missing, and serves it under the service's name."""
    models = tmp_path / "models"
    (container,) = read(RUNTIME)[0]["spec"]["containers"]
    arguments = [
        argument.replace("{{.Name}}", NAME).replace("/mnt/models", str(models))
        for argument in container["args"]
        if not argument.startswith("--http_port=")
    ]
    if not late:
        provide(models)
    server = ServerProcess(
        "--http_port=0", *arguments,
        environment=variables(container) | {
            "SERVICE_DEFAULT_MODEL": NAME,
            "SERVICE_DRAIN_DELAY_SECONDS": "0",
        },
    )  # fmt: skip
    try:
        with server.listening().client() as client:
            if late:
                assert ready(client) == httpx.codes.SERVICE_UNAVAILABLE
                provide(models)
            while ready(client) != httpx.codes.OK:
                assert server.process.poll() is None
            labels = infer(client, NAME)
    finally:
        server.end()
    assert labels == ["7"]


def ready(client: httpx.Client) -> int:
    return client.get("/v2/health/ready").status_code
