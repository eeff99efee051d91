"""The Helm chart, rendered and validated without a cluster."""

import json
from typing import Any

import kubernetes_validate
import pytest
from chart_values import PLAIN, VALUES
from manifests import CHART, Manifest, find_helm, helm, render, variables

from service.settings import Settings

pytestmark = pytest.mark.skipif(find_helm() is None, reason="needs helm; `make helm` installs it")

OLDEST_KUBERNETES = "1.28"  # kubeVersion of Chart.yaml
CUSTOM = {"HTTPRoute", "ScaledObject", "ServiceMonitor"}  # kinds that Kubernetes does not define


def pod_of(manifests: dict[str, Manifest]) -> dict[str, Any]:
    spec: dict[str, Any] = manifests["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_helm_lint_accepts_the_chart(values: str) -> None:
    done = helm("lint", "--strict", CHART, values=values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_manifests_have_the_fields_of_kubernetes(values: str, version: str) -> None:
    """Strict: an unknown field is an error."""
    for kind, manifest in render(values).items():
        if kind not in CUSTOM:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_values_together_make_every_manifest() -> None:
    kinds = set().union(*(render(values) for values in VALUES.values()))
    assert len(kinds) == len(list((CHART / "templates").glob("*.yaml")))
    assert kinds > CUSTOM


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_pod_is_restricted(values: str) -> None:
    """The `restricted` Pod Security Standard, and a read-only root file system."""
    pod = pod_of(render(values))
    assert pod["automountServiceAccountToken"] is False
    security = pod["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 10001)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_pod_may_drain_before_it_is_killed(values: str) -> None:
    pod = pod_of(render(values))
    settings = variables(pod["containers"][0])
    delay = float(settings["SERVICE_DRAIN_DELAY_SECONDS"])
    probe = pod["containers"][0]["readinessProbe"]
    assert delay > probe["periodSeconds"] * probe["failureThreshold"]
    open_requests = float(settings["SERVICE_SHUTDOWN_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] > delay + open_requests


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_variable_of_the_service_is_a_valid_setting(values: str) -> None:
    (container,) = pod_of(render(values))["containers"]
    settings = {
        name.removeprefix("SERVICE_").lower(): text
        for name, text in variables(container).items()
        if name.startswith("SERVICE_")
    }
    assert set(settings) <= set(Settings.model_fields)
    Settings(**settings)  # type: ignore[arg-type]


def test_names_and_selectors_agree() -> None:
    manifests = render(VALUES["object store, route and keda"])
    template = manifests["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    selectors = (
        manifests["Service"]["spec"]["selector"],
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    )
    for selector in selectors:
        assert selector.items() <= labels
    service, deployment = (
        manifests[kind]["metadata"]["name"] for kind in ("Service", "Deployment")
    )
    assert manifests["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == deployment
    (rule,) = manifests["HTTPRoute"]["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": service, "port": 80}]
    named = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in manifests["Service"]["spec"]["ports"]} == named


def test_autoscaling_follows_the_queue() -> None:
    """KEDA asks Prometheus for the queue of this release; the HPA takes it from an adapter."""
    scaled = render(VALUES["object store, route and keda"])
    (trigger,) = scaled["ScaledObject"]["spec"]["triggers"]
    assert trigger["metadata"]["query"] == (
        'sum(resident_queue_images{namespace="vision",service="photos-resident"})'
    )
    assert trigger["metadata"]["threshold"] == "16"
    metrics = render(VALUES["volume, ingress and hpa"])["HorizontalPodAutoscaler"]["spec"][
        "metrics"
    ]
    assert metrics[1]["pods"]["metric"]["name"] == "resident_queue_images"
    assert "replicas" not in scaled["Deployment"]["spec"]


def test_without_keys_the_operator_decides() -> None:
    """A chart with neither a secret nor `enabled: false` is an error."""
    assert helm("template", "photos", CHART).returncode != 0
    manifests = render(PLAIN)
    assert variables(pod_of(manifests)["containers"][0])["SERVICE_KEYS"] == ""
    assert "Secret" not in manifests
    file = json.loads(
        render(VALUES["volume, ingress and hpa"])["Secret"]["stringData"]["keys.json"]
    )
    assert file == {"schema_version": 1, "keys": []}


@pytest.mark.parametrize(
    "wrong",
    [
        "replicaCount: many",
        "unknown: 1",
        "settings: {SERVICE_STORE: /elsewhere}",
        "settings: {PRECISION: int8}",
        "env: [{name: SERVICE_KEYS, value: ''}]",
        "store: {url: /models}",
        "image: {digest: sha256:1}",
        "autoscaling: {kind: vpa}",
        "httpRoute: {enabled: true}",
        "service: {port: 0}",
    ],
)
def test_the_schema_rejects_wrong_values(wrong: str) -> None:
    done = helm("template", "photos", CHART, values=f"{PLAIN}\n{wrong}")
    assert done.returncode != 0
    assert "values.schema.json" in done.stderr or "schema" in done.stderr


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_autoscaling_without_a_metric_is_an_error(kind: str) -> None:
    values = f"{PLAIN}\nautoscaling: {{kind: {kind}, cpuPercent: 0, queuedImages: 0}}"
    assert helm("template", "photos", CHART, values=values).returncode != 0
