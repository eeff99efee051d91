"""Publishing an import: a candidate whose checks passed becomes a sealed version, proven where labelled images speak for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from model_store.manifest import Check, Checkpoint, Classifier, Variant, now
from model_store.store import ModelStore
from training.export import CLASSIFIER, MODEL
from training.gates import require_passed, waived
from training.importing.candidate import Candidate
from training.importing.import_report import REPORT
from training.importing.verification import Verified
from training.publish import CHECKPOINT, Published

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
    judged = Judged(candidate, verified, waived(verified.checks, waivers))
    evidence = "that pixels are read as in training, nothing here shows; labelled images do (--verify)"
    if verified.metrics is not None:
        evidence = f"{verified.metrics.top1:.1%} of {verified.metrics.test_images} labelled images are read right"
    candidate.report.add("proof", judged.proof, "checked" if judged.proof == "proven" else "missing", evidence)
    return judged


def publish_import(judged: Judged, store: ModelStore, model: str, *, promote: bool, keep_checkpoint: bool) -> Published:
    """Seal the next version; `production` follows where it is proven. Raises GateError where a check failed without a waiver."""
    require_passed(judged.checks)
    candidate, verified = judged.candidate, judged.verified
    files: dict[str, bytes] = {MODEL: candidate.model, REPORT: candidate.report.to_json(), **verified.files}
    if candidate.classifier is not None:
        files[CLASSIFIER] = candidate.classifier
    if keep_checkpoint and candidate.checkpoint is not None:
        files[CHECKPOINT] = candidate.checkpoint
    manifest: dict[str, Any] = {
        "created_at": now(),
        "input": candidate.input,
        "outputs": candidate.outputs,
        "preprocessing": candidate.preprocessing,
        "class_names": candidate.class_names,
        "max_batch_size": candidate.max_batch_size,
        "variants": (Variant(precision="fp32", file=MODEL, tolerance=verified.tolerance),),
        "classifier": Classifier(file=CLASSIFIER) if CLASSIFIER in files else None,
        "checkpoint": Checkpoint(file=CHECKPOINT) if CHECKPOINT in files else None,
        "imported": candidate.imported,
        "metrics": verified.metrics,
        "gate": judged.checks,
        "golden": verified.golden,
        "proof": judged.proof,
    }
    version = store.publish(model, manifest, files)
    promoted = promote and judged.proof == "proven"
    if promoted:
        store.promote(model, version, why=_WHY)
    return Published(version, promoted=promoted)
