"""Publishing an import: a candidate whose checks passed becomes a sealed version, proven where labelled images speak for it."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal

from model_store.aliases import PRODUCTION
from model_store.errors import ManifestError
from model_store.manifest import Check, Checkpoint, Classifier, Variant, now
from model_store.store import ModelStore
from training.errors import ForeignModelError
from training.gates.gate import apply_waivers, require_passed
from training.importing.candidate import Candidate
from training.importing.import_report import REPORT
from training.importing.verification import Verified
from training.steps.export import CLASSIFIER_FILE, MODEL_FILE
from training.steps.publish import CHECKPOINT_WEIGHTS_FILE, Published, pin_serving_version

_WHY: Final = "imported and verified"


@dataclass(frozen=True)
class Judged:
    """A candidate with what was found of it, waivers in it."""

    candidate: Candidate
    verified: Verified
    checks: tuple[Check, ...]

    @property
    def proof(self) -> Literal["proven", "unproven"]:
        """Proven is what labelled images were read right by, with nothing waived."""
        proven = self.verified.metrics is not None and all(check.passed for check in self.checks)
        return "proven" if proven else "unproven"


def judge(candidate: Candidate, verified: Verified, waivers: Mapping[str, str]) -> Judged:
    """Put the owner's reasons to the checks that failed, and the proof into the report."""
    judged = Judged(candidate, verified, apply_waivers(verified.checks, waivers))
    evidence = (
        "that pixels are read as in training, nothing here shows; labelled images do (--verify)"
    )
    if verified.metrics is not None:
        evidence = f"{verified.metrics.top1:.1%} of {verified.metrics.test_images} labelled images are read right"
    candidate.report.add(
        "proof", judged.proof, "checked" if judged.proof == "proven" else "missing", evidence
    )
    return judged


def publish_import(
    judged: Judged, store: ModelStore, model: str, *, promote: bool, keep_checkpoint: bool
) -> Published:
    """Seal the next version; `production` follows where it is proven.

    An import that brings nothing new finds its version. Raises GateError where a check failed without a waiver.
    """
    require_passed(judged.checks)
    candidate, verified = judged.candidate, judged.verified
    files: dict[str, bytes] = {
        MODEL_FILE: candidate.model,
        REPORT: candidate.report.to_json(),
        **verified.files,
    }
    if candidate.classifier is not None:
        files[CLASSIFIER_FILE] = candidate.classifier
    if keep_checkpoint and candidate.checkpoint is not None:
        files[CHECKPOINT_WEIGHTS_FILE] = candidate.checkpoint
    manifest: dict[str, Any] = {
        "created_at": now(),
        "input": candidate.input,
        "outputs": candidate.outputs,
        "preprocessing": candidate.preprocessing,
        "class_names": candidate.class_names,
        "max_batch_size": candidate.max_batch_size,
        "variants": (Variant(precision="fp32", file=MODEL_FILE, tolerance=verified.tolerance),),
        "classifier": Classifier(file=CLASSIFIER_FILE) if CLASSIFIER_FILE in files else None,
        "checkpoint": Checkpoint(file=CHECKPOINT_WEIGHTS_FILE)
        if CHECKPOINT_WEIGHTS_FILE in files
        else None,
        "imported": candidate.imported,
        "metrics": verified.metrics,
        "gate": judged.checks,
        "golden": verified.golden,
        "proof": judged.proof,
    }
    version = _find_same(store, model, manifest, files)
    if version is None:
        if judged.proof == "unproven" or not promote:
            _require_not_built_in(store, model)
            pin_serving_version(store, model)
        version = store.publish(model, manifest, files)
    if promote and judged.proof == "proven" and store.aliases(model).version(PRODUCTION) != version:
        store.promote(model, version, why=_WHY)
    return Published(version, promoted=store.aliases(model).version(PRODUCTION) == version)


def _require_not_built_in(store: ModelStore, model: str) -> None:
    """Raise ForeignModelError where a built-in model would be hidden."""
    if model in store.models() and store.layer(model) == "built-in":
        raise ForeignModelError(
            f"{model} is built in, and this version would hide it: choose another --model, or --verify it and promote it"
        )


def _find_same(
    store: ModelStore, model: str, manifest: Mapping[str, Any], files: Mapping[str, bytes]
) -> int | None:
    """The newest version, where it is the same but for the time. A damaged version is not it."""
    if model not in store.models() or store.layer(model) != "published":
        return None
    number = store.versions(model)[-1]
    digests = {path: sha256(data).hexdigest() for path, data in files.items()}
    with suppress(ManifestError), store.open(model, number, verify=False) as version:
        sealed = version.manifest
        same = all(
            getattr(sealed, name) == value
            for name, value in manifest.items()
            if name != "created_at"
        )
        if same and {entry.path: entry.sha256 for entry in sealed.files} == digests:
            return number
    return None
