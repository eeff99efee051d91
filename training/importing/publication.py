"""Publishes a verified import as the next version of a model."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal

from model_store.aliases import PRODUCTION
from model_store.errors import ManifestError
from model_store.manifest import Check, Checkpoint, Classifier, Variant, now
from model_store.provenance import Metrics
from model_store.store import ModelStore
from training.errors import ForeignModelError
from training.gates.gate import apply_waivers as waive_checks
from training.gates.gate import require_passed
from training.importing.candidate import ImportCandidate
from training.importing.import_report import IMPORT_REPORT
from training.importing.verification import VerificationResult
from training.promotion import pin_serving_version
from training.reports.evaluation_report import (
    NO_CURVES_OF_IMPORT,
    EvaluatedImages,
    render_evaluation_report,
)
from training.reports.pages import REPORT_FILE
from training.steps.export import CLASSIFIER_FILE, MODEL_FILE
from training.steps.publish import CHECKPOINT_WEIGHTS_FILE, Published

_PROMOTION_REASON: Final = "imported and verified"


@dataclass(frozen=True)
class CheckedImport:
    """A candidate, its verification, and its checks with waivers."""

    candidate: ImportCandidate
    result: VerificationResult
    checks: tuple[Check, ...]

    @property
    def proof(self) -> Literal["proven", "unproven"]:
        """`proven` if labelled images were given and every check passed without a waiver."""
        proven = self.result.metrics is not None and all(check.passed for check in self.checks)
        return "proven" if proven else "unproven"


def apply_waivers(
    candidate: ImportCandidate, result: VerificationResult, waivers: Mapping[str, str]
) -> CheckedImport:
    """Attach waivers to failed checks, and add the proof to the candidate's report."""
    checked = CheckedImport(candidate, result, waive_checks(result.checks, waivers))
    if result.metrics is None:
        evidence = "only labelled images show that the input spec is right (--verify)"
    else:
        images = result.metrics.test_images
        evidence = f"{result.metrics.top1:.1%} of {images} labelled images are classified correctly"
    certainty: Literal["checked", "missing"] = "checked" if checked.proof == "proven" else "missing"
    candidate.report.add("proof", checked.proof, certainty, evidence)
    return checked


def publish_import(
    checked: CheckedImport,
    store: ModelStore,
    model: str,
    *,
    promote: bool,
    keep_checkpoint: bool,
    keep_report: bool = True,
) -> Published:
    """Seal the next version, and point `production` to it if it is proven.

    With `keep_report`, the version contains a report of its labelled images. If the newest version
    is the same import, that version is returned.

    Raises:
        GateError: If a check failed without a waiver.
        ForeignModelError: If an unproven version would hide a built-in model.
    """
    require_passed(checked.checks)
    candidate, result = checked.candidate, checked.result
    files: dict[str, bytes] = {
        MODEL_FILE: candidate.model,
        IMPORT_REPORT: candidate.report.to_json(),
        **result.files,
    }
    if candidate.classifier is not None:
        files[CLASSIFIER_FILE] = candidate.classifier
    if keep_checkpoint and candidate.checkpoint is not None:
        files[CHECKPOINT_WEIGHTS_FILE] = candidate.checkpoint
    metrics = result.metrics
    if keep_report and metrics is not None and result.evaluated is not None:
        files[REPORT_FILE] = _render_report(model, candidate, result.evaluated, metrics)
        metrics = metrics.model_copy(update={"report": REPORT_FILE})
    manifest: dict[str, Any] = {
        "created_at": now(),
        "input": candidate.input,
        "outputs": candidate.outputs,
        "preprocessing": candidate.preprocessing,
        "class_names": candidate.class_names,
        "max_batch_size": candidate.max_batch_size,
        "variants": (Variant(precision="fp32", file=MODEL_FILE, tolerance=result.tolerance),),
        "classifier": Classifier(file=CLASSIFIER_FILE) if CLASSIFIER_FILE in files else None,
        "checkpoint": Checkpoint(file=CHECKPOINT_WEIGHTS_FILE)
        if CHECKPOINT_WEIGHTS_FILE in files
        else None,
        "imported": candidate.imported,
        "metrics": metrics,
        "gate": checked.checks,
        "golden": result.golden,
        "proof": checked.proof,
    }
    version = _find_same(store, model, manifest, files)
    if version is None:
        if checked.proof == "unproven" or not promote:
            _require_not_built_in(store, model)
            pin_serving_version(store, model)
        version = store.publish(model, manifest, files)
    if (
        promote
        and checked.proof == "proven"
        and store.aliases(model).version(PRODUCTION) != version
    ):
        store.promote(model, version, why=_PROMOTION_REASON)
    return Published(version, promoted=store.aliases(model).version(PRODUCTION) == version)


def _render_report(
    model: str, candidate: ImportCandidate, evaluated: EvaluatedImages, metrics: Metrics
) -> bytes:
    images = evaluated.images
    return render_evaluation_report(
        model,
        evaluated,
        metrics,
        origin=f"{candidate.imported.name}, imported, with {len(candidate.class_names):,} classes.",
        no_curves=NO_CURVES_OF_IMPORT,
        data_facts={
            "data": f"{images.name} (--verify)",
            "images": f"{len(evaluated.chosen):,} of {len(images):,}",
        },
    )


def _require_not_built_in(store: ModelStore, model: str) -> None:
    if model in store.models() and store.layer(model) == "built-in":
        raise ForeignModelError(
            f"{model} is a built-in model, and this version would hide it; choose another --model, "
            "or prove the import with --verify and promote it"
        )


def _find_same(
    store: ModelStore, model: str, manifest: Mapping[str, Any], files: Mapping[str, bytes]
) -> int | None:
    """The newest version if it is undamaged and differs only in its creation time; else None."""
    if model not in store.models() or store.layer(model) != "published":
        return None
    number = store.versions(model)[-1]
    digests = {path: sha256(data).hexdigest() for path, data in files.items()}
    with suppress(ManifestError), store.open_manifest(model, number) as version:
        sealed = version.manifest
        same = all(
            getattr(sealed, name) == value
            for name, value in manifest.items()
            if name != "created_at"
        )
        if same and {entry.path: entry.sha256 for entry in sealed.files} == digests:
            return number
    return None
