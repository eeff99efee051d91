"""The files of deploy/ for Kubernetes: read, and rendered by Helm."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
CHART = DEPLOY / "helm/resident"
RUNTIME = DEPLOY / "kserve/clusterservingruntime.yaml"

Manifest = dict[str, Any]


def read(path: Path) -> list[Manifest]:
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def find_helm() -> str | None:
    """The command helm: that of PATH, or the one that `make helm` brings."""
    return shutil.which("helm") or shutil.which(DEPLOY.parent / ".venv/helm/helm")


def helm(*arguments: str | Path, values: str = "") -> subprocess.CompletedProcess[str]:
    """Run helm with values in YAML, and return its result."""
    command = find_helm()
    assert command
    return subprocess.run(
        [command, *arguments, *(["--values", "-"] if values else [])],
        input=values,
        capture_output=True,
        text=True,
        check=False,
    )


def render(values: str, *, release: str = "photos") -> dict[str, Manifest]:
    """The chart's manifests by kind, as `helm install` would send them."""
    done = helm("template", release, CHART, "--namespace", "vision", values=values)
    assert done.returncode == 0, done.stderr
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


def variables(container: Manifest) -> dict[str, str]:
    """The environment of a container."""
    return {entry["name"]: entry["value"] for entry in container["env"]}
