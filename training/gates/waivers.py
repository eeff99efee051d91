"""Names of the checks, and reasons to publish although one failed (`--waive`). Imports no torch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from training.errors import GateError, RunError

_PARITY_CHECKS: Final = (
    *(f"parity_batch_{size}" for size in (1, 7, 32)),
    "parity_top1",
    "batch_invariance",
)
_GOLDEN_CHECKS: Final = (
    "golden_numerics",
    "golden_decode",
    "golden_notices_swapped_channels",
    "golden_notices_ignored_exif",
    "golden_notices_another_interpolation",
    "golden_notices_a_shifted_crop",
)
RUN_CHECKS: Final = (
    *_PARITY_CHECKS,
    "accuracy_png",
    "accuracy_jpeg",
    "orientation",
    "accuracy_floor",
    *_GOLDEN_CHECKS,
    "not_worse",
    "not_worse_than_live",
    "latency",
    "size",
    "live_readable",
)
"""The checks of a run, by `gate`."""
VARIANT_CHECKS: Final = (
    "top1_loss",
    "logit_drift",
    "flips_near_margin",
    "flips_clear",
    "golden_top1",
    "abstained",
    *(f"coverage_{coverage}" for coverage in ("0.8", "0.9", "0.95")),
    "calibration_error",
    "batch_invariance",
    "size",
    "speed",
    "density_abstained",
)
"""The checks of `quantize`."""
IMPORT_CHECKS: Final = (
    *_PARITY_CHECKS,
    "probe_spread",
    "classifier_identity",
    *_GOLDEN_CHECKS,
    "verify_images",
    "verify_classes",
    "accuracy_floor",
    "no_better_reading",
)
"""The checks of `import`."""


def parse_waivers(texts: Iterable[str], known: Sequence[str]) -> dict[str, str]:
    """Return the reasons of CHECK=REASON by check.

    Raises:
        RunError: A text is not CHECK=REASON.
        GateError: A check is not in `known`.
    """
    waivers = {}
    for text in texts:
        check, _, reason = text.partition("=")
        if not check or not reason.strip():
            raise RunError(f"--waive must be CHECK=REASON with a reason, got {text!r}")
        waivers[check] = reason.strip()
    check_waivers(waivers, known)
    return waivers


def check_waivers(waivers: Mapping[str, str], known: Sequence[str] = RUN_CHECKS) -> None:
    """Raise GateError if a waiver names a check that is not in `known`."""
    if unknown := sorted(set(waivers) - set(known)):
        raise GateError(f"there is no check {', '.join(unknown)}; there are {', '.join(known)}")
