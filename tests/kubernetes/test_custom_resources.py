"""Manifests of kinds that others define, against those definitions.

The definitions (CRDs) of KServe, KEDA, the Prometheus operator and the Gateway API are large and
not ours, so this runs only with RESIDENT_TEST_CRDS=FOLDER, a folder of their YAML files.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_values import VALUES
from jsonschema import Draft202012Validator
from manifests import DEPLOY, Manifest, find_helm, read, render

FOLDER = os.environ.get("RESIDENT_TEST_CRDS")
KSERVE = sorted((DEPLOY / "kserve").glob("*.yaml"))

pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="needs the CRDs of other projects: set RESIDENT_TEST_CRDS=FOLDER"
)


def strict(schema: Any) -> Any:
    """The schema without unknown fields, as `kubectl apply` with strict validation has it."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(part) for key, part in schema.items()}
    known = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if known and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


@cache
def definitions() -> dict[tuple[str, str], Any]:
    """Schemas by apiVersion and kind."""
    found = {}
    for path in Path(FOLDER or "").rglob("*.yaml"):
        for crd in yaml.safe_load_all(path.read_text()):
            spec = (crd or {}).get("spec", {})
            for version in spec.get("versions", []):
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                found[key] = version["schema"]["openAPIV3Schema"]
    return found


def check(manifest: Manifest) -> None:
    schema = strict(definitions()[manifest["apiVersion"], manifest["kind"]])
    schema["properties"]["metadata"] = {"type": "object"}
    Draft202012Validator(schema).validate(manifest)


@pytest.mark.parametrize("path", KSERVE, ids=lambda path: path.name)
def test_kserve_knows_every_field(path: Path) -> None:
    for manifest in read(path):
        check(manifest)


@pytest.mark.skipif(find_helm() is None, reason="needs helm; `make helm` installs it")
@pytest.mark.parametrize("kind", ["HTTPRoute", "ScaledObject", "ServiceMonitor"])
def test_the_chart_has_fields_that_exist(kind: str) -> None:
    (manifest,) = {
        str(rendered[kind]): rendered[kind] for rendered in map(render, VALUES.values())
        if kind in rendered
    }.values()  # fmt: skip
    check(manifest)
