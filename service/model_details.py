"""What is said of a model over HTTP: what serves, in which precision, and why other versions and variants do not."""

import logging
from dataclasses import replace
from typing import Any

from model_store.errors import ModelNotFoundError, ModelStoreError
from service.registry import Registry
from service.schemas import ModelDetail, ModelSummary, VariantDetail, VersionState
from service.served_model import ServedModel
from service.served_version import ServedVersion

logger = logging.getLogger(__name__)


def summarise(registry: Registry, model: ServedModel) -> ModelSummary:
    """The model in the list."""
    return ModelSummary(**_summary(registry, model))


def _summary(registry: Registry, model: ServedModel) -> dict[str, Any]:
    version = model.served.version if model.served else None
    return {
        "model": model.name,
        "state": model.state,
        "version": version.number if version else None,
        "digest": f"sha256:{version.digest}" if version else None,
        "proof": version.manifest.proof if version else None,
        "precision": model.served.choice.precision if model.served else None,
        "default": model.name == registry.default_model,
    }


def describe_model(registry: Registry, model: ServedModel) -> ModelDetail:
    """The model's page, by the store as it is now; where the store can not be read, what still serves is shown."""
    summary, policy = _summary(registry, model), str(registry.policy_of(model.name))
    try:
        numbers = registry.store.versions(model.name)
        aliases = registry.store.aliases(model.name)
        pointing = {alias: aliases.version(alias) for alias in aliases.names()}
    except ModelNotFoundError:
        numbers, pointing = [], None  # it is gone from the store, and what still serves of it is shown
    except ModelStoreError:
        logger.exception("the store could not be read for GET /v1/models/%s", model.name)
        numbers, pointing = [], None
        model = replace(model, error="the model store can not be read at the moment")
    states, held = registry.states(model.name), registry.held(model.name)
    versions = [
        VersionState(
            version=number,
            state=states.get(number, "available"),
            reason=model.errors.get(number) if states.get(number) == "error" else None,
            held=held.get(number),
        )
        for number in sorted({*numbers, *states, *held})
    ]
    if model.served is None:
        return ModelDetail(
            **summary, layer=model.layer, reason=model.error, versions=versions, aliases=pointing, version_policy=policy
        )
    manifest = model.served.version.manifest
    return ModelDetail(
        **summary,
        layer=model.layer,
        reason=model.error,
        versions=versions,
        aliases=pointing,
        version_policy=policy,
        class_names=list(manifest.class_names),
        input=manifest.input,
        preprocessing=manifest.preprocessing,
        max_batch_size=model.served.max_batch_size,
        can_abstain=model.served.can_abstain,
        coverages=model.served.coverages,
        calibration=manifest.calibration,
        metrics=manifest.metrics,
        gate=list(manifest.gate),
        precision_note=model.served.choice.note,
        variants=_variants(model.served),
        training=manifest.training,
        imported=manifest.imported,
        derived_from=manifest.derived_from,
    )


def _variants(served: ServedVersion) -> list[VariantDetail]:
    choice = served.choice
    return [
        VariantDetail(
            precision=variant.precision,
            serving=variant.precision == choice.precision,
            tolerance=variant.tolerance,
            milliseconds=choice.milliseconds.get(variant.precision),
            reason=choice.left_out.get(variant.precision),
            gate=list(variant.gate),
        )
        for variant in served.version.manifest.variants
    ]
