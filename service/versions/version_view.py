"""What `/v1/models/{model}/versions/{version}` shows of one version, whether or not it serves."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from model_store.activation_maps import has_activation_maps
from model_store.errors import ModelNotFoundError, ModelStoreError, VersionNotFoundError
from model_store.manifest import Calibration, Check, Input, Manifest, Precision, Preprocessing
from model_store.provenance import Imported, Metrics, Training, VersionReference
from model_store.validation import DeferredModel
from model_store.version import Version
from service.errors import NotFoundError, NotReadyError
from service.versions.registry import Registry

VersionStateName = Literal["loading", "ready", "unloading", "error", "available"]


class VariantChecks(DeferredModel):
    """What the gates found for the variant of one precision."""

    precision: Precision
    gate: list[Check]


class VersionDetail(DeferredModel):
    """One version of a model: how good it is, what its gates found, where it comes from."""

    model: str
    version: int
    state: Annotated[
        VersionStateName,
        Field(description="`available` versions are in the store and not selected."),
    ]
    reason: Annotated[str | None, Field(description="Why it does not serve.")] = None
    digest: str
    created_at: datetime
    proof: Literal["proven", "unproven"]
    golden_images: Annotated[int, Field(description="Images of the golden proof.")]
    class_names: list[str]
    input: Input
    preprocessing: Preprocessing
    can_explain: Annotated[bool, Field(description="Whether predictions accept `explain`.")]
    can_abstain: Annotated[
        bool, Field(description="Whether it detects images unlike its training data.")
    ]
    has_embedding: Annotated[bool, Field(description="Whether predictions accept `embedding`.")]
    coverages: Annotated[
        list[float], Field(description="Accepted values of `coverage` in predictions.")
    ]
    metrics: Metrics | None
    calibration: Calibration | None
    gate: list[Check]
    variants: list[VariantChecks]
    training: Training | None
    imported: Imported | None
    derived_from: VersionReference | None


def describe_version(registry: Registry, model: str, number: int) -> VersionDetail:
    """Read the manifest of a version. Reads the store.

    Raises:
        NotFoundError: The store has no such model or version.
        NotReadyError: The version cannot be read.
    """
    served = registry.models.get(model)
    if served is None:
        names = ", ".join(sorted(registry.models)) or "none"
        raise NotFoundError(f"there is no model {model!r}; the models are: {names}")
    state: VersionStateName = registry.states(model).get(number, "available")
    reason = served.errors.get(number) if state == "error" else None
    try:
        with registry.store.open_manifest(model, number) as version:
            return VersionDetail(
                model=model,
                version=number,
                state=state,
                reason=reason,
                **_describe(version, version.manifest),
            )
    except (ModelNotFoundError, VersionNotFoundError):
        raise NotFoundError(
            f"model {model} has no version {number} in the store", code="version_not_found"
        ) from None
    except ModelStoreError:
        raise NotReadyError(
            f"version {number} of model {model} cannot be read; GET /v1/models/{model} has the "
            "reason if it should serve"
        ) from None


def _describe(version: Version, manifest: Manifest) -> dict[str, Any]:
    calibration = manifest.calibration or Calibration()
    return {
        "digest": f"sha256:{version.digest}",
        "created_at": manifest.created_at,
        "proof": manifest.proof,
        "golden_images": len(manifest.golden),
        "class_names": list(manifest.class_names),
        "input": manifest.input,
        "preprocessing": manifest.preprocessing,
        "can_explain": has_activation_maps(version),
        "can_abstain": calibration.energy_threshold is not None or manifest.density is not None,
        "has_embedding": manifest.outputs.embedding is not None,
        "coverages": [float(coverage) for coverage in calibration.conformal_thresholds],
        "metrics": manifest.metrics,
        "calibration": manifest.calibration,
        "gate": list(manifest.gate),
        "variants": [
            VariantChecks(precision=each.precision, gate=list(each.gate))
            for each in manifest.variants
        ],
        "training": manifest.training,
        "imported": manifest.imported,
        "derived_from": manifest.derived_from,
    }
