"""What is said of a model over HTTP: what serves, in which precision, and why other versions and variants do not."""

from dataclasses import replace
from typing import Any

from model_store.errors import AliasError, ModelNotFoundError, ModelStoreError
from service.engine.loaded_version import LoadedVersion
from service.http.schemas import ModelDetail, ModelSummary, VariantDetail, VersionState
from service.versions.reconciler import ServedModel
from service.versions.registry import Registry


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
        "precision": model.served.selected_variant.precision if model.served else None,
        "default": model.name == registry.default_model,
    }


def describe_model(registry: Registry, model: ServedModel) -> ModelDetail:
    """The model's page, by the store as it is now; where the store can not be read, what still serves is shown."""
    summary, policy = _summary(registry, model), str(registry.policy_of(model.name))
    numbers: list[int] = []
    pointing, trouble = None, None
    try:
        numbers = registry.store.versions(model.name)
        pointing, trouble = _read_aliases(registry, model.name)
    except ModelNotFoundError:
        pass  # it is gone from the store, and what still serves of it is shown
    except ModelStoreError as error:
        registry.troubles.tell(
            model.name, str(error) if str(error) != registry.error else None
        )  # the look at it has said so
        model = replace(model, error="the model store can not be read at the moment")
    else:
        registry.troubles.tell(model.name, trouble if trouble != model.error else None)  # as above
        model = replace(model, error=model.error or trouble)
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
            **summary,
            layer=model.layer,
            reason=model.error,
            versions=versions,
            aliases=pointing,
            version_policy=policy,
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
        precision_note=model.served.selected_variant.note,
        variants=_variants(model.served),
        training=manifest.training,
        imported=manifest.imported,
        derived_from=manifest.derived_from,
    )


def _read_aliases(registry: Registry, name: str) -> tuple[dict[str, int | None] | None, str | None]:
    """Where the model's aliases point, without those that can not be read, and what is wrong with the first of these."""
    aliases, pointing, troubles = registry.store.aliases(name), dict[str, int | None](), []
    try:
        names = aliases.names()
    except AliasError as error:
        return None, str(error)
    for alias in names:
        try:
            pointing[alias] = aliases.version(alias)
        except AliasError as error:
            pointing[alias] = None
            troubles.append(str(error))
    return pointing, next(iter(troubles), None)


def _variants(served: LoadedVersion) -> list[VariantDetail]:
    choice = served.selected_variant
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
