"""What `/v1/models` shows of a model: what serves, in which precision, and what does not."""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from model_store.errors import AliasError, ModelNotFoundError, ModelStoreError
from model_store.manifest import Calibration, Check, Input, Precision, Preprocessing
from model_store.provenance import Imported, Metrics, Training, VersionReference
from model_store.validation import DeferredModel
from service.engine.loaded_version import LoadedVersion
from service.versions.registry import Registry
from service.versions.served_model import ServedModel

HOW_TO_CHANGE_DEFAULT: Final = (
    "set SERVICE_DEFAULT_MODEL (--default-model) to another model and restart the service"
)


class ModelSummary(DeferredModel):
    """A model in the list of models."""

    model: str
    state: Literal["loading", "ready", "unloading", "unloaded", "error"]
    version: Annotated[
        int | None, Field(description="The version that answers requests without a version number.")
    ]
    digest: str | None
    proof: Annotated[
        Literal["proven", "unproven"] | None,
        Field(description="Whether the serving version was evaluated on labelled images."),
    ] = None
    precision: Annotated[
        Precision | None, Field(description="Precision of the variant that serves.")
    ]
    intra_op_num_threads: Annotated[int | None, Field(description="Threads of a run.")] = None
    lone_threads: Annotated[
        int | None,
        Field(
            description="Threads of the run of an image that arrives while no other is queued or "
            "running."
        ),
    ] = None
    default: bool


class ModelList(DeferredModel):
    """Every model of the store, and the one that answers `/v1/predict`."""

    models: list[ModelSummary]
    default_model: Annotated[
        str | None, Field(description="The model that answers `/v1/predict`; null if none does.")
    ]
    default_model_help: Annotated[
        str, Field(description="How to change `default_model`, for people.")
    ] = HOW_TO_CHANGE_DEFAULT


class VersionState(DeferredModel):
    """A version in the store or in this process."""

    version: int
    state: Annotated[
        Literal["loading", "ready", "unloading", "error", "available"],
        Field(description="`available` versions are in the store and not selected."),
    ]
    reason: Annotated[str | None, Field(description="Why it does not serve.")] = None
    held: Annotated[
        Literal["load", "unload"] | None,
        Field(description="What an operator decided on this replica, until it is released."),
    ] = None


class VariantDetail(DeferredModel):
    """One model file of the serving version, in its precision."""

    precision: Precision
    serving: bool
    tolerance: Annotated[
        float, Field(description="Largest accepted logit error on the golden images.")
    ]
    milliseconds: Annotated[
        tuple[float, ...] | None,
        Field(description="Time in ms of a batch of 1 and of 8 images, if it was measured here."),
    ] = None
    reason: Annotated[str | None, Field(description="Why it cannot serve here.")] = None
    gate: list[Check]


class ModelDetail(ModelSummary):
    """What serves of a model, where it comes from and what its gates found."""

    layer: Literal["published", "built-in"] | None = None
    reason: Annotated[str | None, Field(description="What is wrong with the model as a whole.")] = (
        None
    )
    versions: list[VersionState]
    aliases: Annotated[
        dict[str, int | None] | None,
        Field(description="The version of each alias; null if its newest event is unreadable."),
    ]
    version_policy: Annotated[
        str | None, Field(description="Which versions this replica serves.")
    ] = None
    class_names: list[str] | None = None
    input: Input | None = None
    preprocessing: Preprocessing | None = None
    max_batch_size: int | None = None
    can_abstain: Annotated[
        bool | None,
        Field(description="Whether it detects images unlike its training data."),
    ] = None
    can_explain: Annotated[
        bool | None, Field(description="Whether predictions accept `explain`.")
    ] = None
    embedding_dims: Annotated[
        int | None, Field(description="Length of an embedding; null if the model has none.")
    ] = None
    coverages: Annotated[
        list[float] | None, Field(description="Accepted values of `coverage` in predictions.")
    ] = None
    calibration: Calibration | None = None
    metrics: Metrics | None = None
    gate: list[Check] | None = None
    precision_note: Annotated[
        str | None,
        Field(description="Why another precision serves than SERVICE_PRECISION requests."),
    ] = None
    variants: list[VariantDetail] | None = None
    training: Training | None = None
    imported: Imported | None = None
    derived_from: VersionReference | None = None


def summarise(registry: Registry, model: ServedModel) -> ModelSummary:
    return ModelSummary(**_summary(registry, model))


def describe_model(registry: Registry, model: ServedModel) -> ModelDetail:
    """A model with its versions and aliases. Reads the store."""
    stored = _read_store(registry, model)
    default = _describe_default(model.default_version) if model.default_version else {}
    return ModelDetail(
        **_summary(registry, model),
        layer=model.layer,
        reason=stored.problem or model.error,
        versions=_version_states(registry, model, stored),
        aliases=stored.aliases,
        version_policy=str(registry.policy_of(model.name)),
        **default,
    )


def _summary(registry: Registry, model: ServedModel) -> dict[str, Any]:
    loaded = model.default_version
    version = loaded.version if loaded else None
    return {
        "model": model.name,
        "state": model.state,
        "version": version.number if version else None,
        "digest": f"sha256:{version.digest}" if version else None,
        "proof": version.manifest.proof if version else None,
        "precision": loaded.selected_variant.precision if loaded else None,
        "intra_op_num_threads": loaded.threads if loaded else None,
        "lone_threads": (loaded.lone_threads or loaded.threads) if loaded else None,
        "default": model.name == registry.default_model,
    }


def _describe_default(loaded: LoadedVersion) -> dict[str, Any]:
    manifest = loaded.version.manifest
    return {
        "class_names": list(manifest.class_names),
        "input": manifest.input,
        "preprocessing": manifest.preprocessing,
        "max_batch_size": loaded.max_batch_size,
        "can_abstain": loaded.can_abstain,
        "can_explain": loaded.can_explain,
        "embedding_dims": loaded.embedding_dims,
        "coverages": loaded.coverages,
        "calibration": manifest.calibration,
        "metrics": manifest.metrics,
        "gate": list(manifest.gate),
        "precision_note": loaded.selected_variant.note,
        "variants": _describe_variants(loaded),
        "training": manifest.training,
        "imported": manifest.imported,
        "derived_from": manifest.derived_from,
    }


def _describe_variants(loaded: LoadedVersion) -> list[VariantDetail]:
    choice = loaded.selected_variant
    return [
        VariantDetail(
            precision=variant.precision,
            serving=variant.precision == choice.precision,
            tolerance=variant.tolerance,
            milliseconds=choice.milliseconds.get(variant.precision),
            reason=choice.left_out.get(variant.precision),
            gate=list(variant.gate),
        )
        for variant in loaded.version.manifest.variants
    ]


@dataclass(frozen=True)
class _StoredModel:
    """What the store holds of a model. `problem` is what could not be read."""

    versions: tuple[int, ...] = ()
    aliases: dict[str, int | None] | None = None
    problem: str | None = None


def _read_store(registry: Registry, model: ServedModel) -> _StoredModel:
    """Read the store; a problem is logged once, and not if reconciliation has logged it already."""
    subject = f"details of {model.name}"
    try:
        versions = tuple(registry.store.versions(model.name))
        aliases, problem = _read_aliases(registry, model.name)
    except ModelNotFoundError:  # deleted, but still serving
        return _StoredModel()
    except ModelStoreError as error:
        if str(error) != registry.error:
            registry.problems.report(subject, f"model store unreadable reason={str(error)!r}")
        return _StoredModel(problem="the model store cannot be read at the moment")
    if problem is None or problem == model.error:
        registry.problems.clear(subject)
        return _StoredModel(versions, aliases)
    registry.problems.report(subject, f"alias unreadable model={model.name} reason={problem!r}")
    return _StoredModel(versions, aliases, None if model.error else problem)


def _read_aliases(registry: Registry, name: str) -> tuple[dict[str, int | None] | None, str | None]:
    """The version of each alias, None if it is unreadable, and the first problem."""
    store_aliases = registry.store.aliases(name)
    try:
        names = store_aliases.names()
    except AliasError as error:
        return None, str(error)
    aliases: dict[str, int | None] = {}
    problems: list[str] = []
    for alias in names:
        try:
            aliases[alias] = store_aliases.version(alias)
        except AliasError as error:
            aliases[alias] = None
            problems.append(str(error))
    return aliases, problems[0] if problems else None


def _version_states(
    registry: Registry, model: ServedModel, stored: _StoredModel
) -> list[VersionState]:
    states, overrides = registry.states(model.name), registry.overrides(model.name)
    return [
        VersionState(
            version=number,
            state=states.get(number, "available"),
            reason=model.errors.get(number) if states.get(number) == "error" else None,
            held=overrides.get(number),
        )
        for number in sorted({*stored.versions, *states, *overrides})
    ]
