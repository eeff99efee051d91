"""Gates: what must be true of an export before it is published, each a check with a threshold and what was found."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from PIL import Image
from pydantic import ValidationError

from model_store.errors import DecodeProofError
from model_store.files import sha256_of
from model_store.golden import Prepare, check_decode
from model_store.manifest import Check, Golden, Preprocessing
from model_store.preprocessing import Pixels, crop, load_pixels, open_image, orient, prepare, resize, to_rgb
from model_store.session import Logits, Session
from training.data.sources import encode
from training.errors import GateError, RunError
from training.evaluation import evaluate, read_logits
from training.export import CLASSIFIER, MODEL, OUTPUTS, model_input
from training.golden import GOLDEN, read_golden
from training.run_data import RunData
from training.run_directory import RunDirectory, damaged
from training.succession import SIGNIFICANCE, compare_with_previous
from training.weights import PREVIOUS

GATES: Final = "gates.json"
MAX_BATCH_SIZE: Final = 32
ODD_BATCH: Final = 7
LOGIT_TOLERANCE: Final = 1e-3
JPEG_QUALITY: Final = 90
JPEG_ALLOWANCE: Final = 0.01
JPEG_IMAGES: Final = 3  # so many may change of few images: of 60, one is more than a point, and says nothing
NOT_WORSE: Final = "not_worse"
ENCODED_SAMPLE: Final = 1000  # test images that are encoded anew, evenly spread


def gate(run: RunDirectory, data: RunData, waivers: Mapping[str, str] | None = None) -> tuple[Check, ...]:
    """Run every check on the exported file and leave the findings in the run, with the digests of the files they hold for.

    `waivers` maps a check's name to the owner's reason. Raises GateError for a waiver of a check that does not exist.
    """
    waivers = waivers or {}
    check_waivers(waivers)
    files = _digests(run)
    session = Session(run.file(MODEL, "export"), model_input(run), OUTPUTS)
    checks = [*_parity(run, data, session), *_accuracy(run, data, session), *_golden(run, data, session), *_succession(run, data)]
    checks = [
        check if check.passed or check.check not in waivers else check.model_copy(update={"waived": waivers[check.check]})
        for check in checks
    ]
    run.write_json(GATES, {"files": files, "checks": [check.model_dump() for check in checks]})
    return tuple(checks)


def read_checks(run: RunDirectory) -> tuple[Check, ...]:
    """What the checks found on the files that lie here now.

    Raises RunError where `gate` has not run, or files have changed since it did.
    """
    values = run.read_json(GATES, "gate")
    try:
        gated, checks = values["files"], tuple(Check.model_validate(check) for check in values["checks"])
    except (KeyError, TypeError, ValidationError) as error:
        raise damaged(run.path / GATES, error) from None
    if changed := sorted(name for name, digest in _digests(run).items() if gated.get(name) != digest):
        raise RunError(f"{', '.join(changed)} changed after the gates; run `python -m training gate {run.path}` again")
    return checks


def check_waivers(waivers: Mapping[str, str], checks: Sequence[str] = ()) -> None:
    """Raise GateError for a waiver of a check that does not exist, among `checks` or else those of a run."""
    known = checks or CHECKS
    if unknown := sorted(set(waivers) - set(known)):
        raise GateError(f"there is no check {', '.join(unknown)}; there are {', '.join(known)}")


def _digests(run: RunDirectory) -> dict[str, str]:
    """sha256 of every file that a publish would seal and the gates look at."""
    images = [path for block in read_golden(run) for path in (block.image, block.pixels)]
    return {name: sha256_of(run.file(name, "export")) for name in (MODEL, CLASSIFIER, GOLDEN, *images)}


def require_passed(checks: tuple[Check, ...]) -> None:
    """Raise GateError that names the checks that failed without a waiver."""
    if failed := [check.check for check in checks if not check.passed and not check.waived]:
        waiver = f"--waive {failed[0]}='REASON'"
        raise GateError(f"not published: {', '.join(failed)} failed. Mend the cause, or publish knowingly with {waiver}")


def at_least(name: str, value: float, threshold: float, detail: str = "") -> Check:
    """A check that passes from `threshold` up."""
    value = value if math.isfinite(value) else -sys.float_info.max  # NaN passes nothing, and JSON can hold this
    return Check(check=name, passed=value >= threshold, value=value, threshold=threshold, comparison="at_least", detail=detail)


def at_most(name: str, value: float, threshold: float, detail: str = "") -> Check:
    """A check that passes up to `threshold`."""
    value = value if math.isfinite(value) else sys.float_info.max
    return Check(check=name, passed=value <= threshold, value=value, threshold=threshold, comparison="at_most", detail=detail)


def _parity(run: RunDirectory, data: RunData, session: Session) -> Iterator[Check]:
    """Torch and ONNX Runtime give the same logits at batch 1, an odd size and the maximum, and an image's own in any company."""
    expected = read_logits(run)
    sizes = (1, ODD_BATCH, MAX_BATCH_SIZE)
    chunks: list[tuple[Logits, ...]] = []
    for chunk in data.chunks(data.split.test):
        in_company = _in_batches(session, chunk[::-1], MAX_BATCH_SIZE)[::-1]
        chunks.append((*(_in_batches(session, chunk, size) for size in sizes), in_company))
    *found, company = (np.concatenate(logits) for logits in zip(*chunks, strict=True))
    by_size = dict(zip(sizes, found, strict=True))
    for size, logits in by_size.items():
        yield at_most(f"parity_batch_{size}", _largest(logits - expected), LOGIT_TOLERANCE, "max |logit - torch's|, test split")
    agreement = min(float((logits.argmax(1) == expected.argmax(1)).mean()) for logits in by_size.values())
    yield at_least("parity_top1", agreement, 1.0, "share of test images with torch's top-1")
    others = (by_size[ODD_BATCH], by_size[MAX_BATCH_SIZE], company)
    drift = max(_largest(by_size[1] - other) for other in others)
    yield at_most("batch_invariance", drift, LOGIT_TOLERANCE, "max change of a logit with other neighbours and slots")


def _accuracy(run: RunDirectory, data: RunData, session: Session) -> Iterator[Check]:
    """The exported file, on encoded images through the store's preprocessing, is as good as the network that was measured."""
    test = data.split.test
    sample = np.linspace(0, len(test) - 1, min(ENCODED_SAMPLE, len(test))).astype(int)
    labels = data.images.labels[test[sample]]
    measured = float((read_logits(run)[sample].argmax(1) == labels).mean())
    spec = data.preprocessing
    right = {"png": 0, "jpeg": 0}
    for index, label in zip(test[sample], labels, strict=True):
        image = _as_seen(data.images.encoded[index], spec)
        for kind, encoded in (
            ("png", encode(image, "PNG", compress_level=1)),
            ("jpeg", encode(image, "JPEG", quality=JPEG_QUALITY)),
        ):
            right[kind] += int(session.run(prepare(encoded, spec)[np.newaxis])[0].argmax() == label)
    for kind, allowance in (("png", 0.0), ("jpeg", max(JPEG_ALLOWANCE, JPEG_IMAGES / len(sample)))):
        detail = f"top-1 of the export on {kind.upper()} bytes, {len(sample)} images of the test split"
        yield at_least(f"accuracy_{kind}", right[kind] / len(sample), measured - allowance, detail)
    yield at_least("accuracy_floor", evaluate(run, data)["top1"], run.config().recipe.accuracy_floor, "top-1 on the test split")


def _as_seen(data: bytes, spec: Preprocessing) -> Image.Image:
    """The whole image upright and in RGB, as it is before the resize."""
    image = open_image(data, spec)
    load_pixels(image)
    return to_rgb(orient(image), spec.background)


def _golden(run: RunDirectory, data: RunData, session: Session) -> Iterator[Check]:
    """The golden images hold here, and would notice each way in which preprocessing is known to go wrong."""
    blocks = read_golden(run)
    drift = max(
        _largest(session.run(_pixels(run, block)[np.newaxis])[0] - np.asarray(block.logits, np.float32)) for block in blocks
    )
    yield at_most("golden_numerics", drift, LOGIT_TOLERANCE, "max |logit - torch's| over the golden images")
    undecoded = sum(not _decodes(run, block, data.preprocessing, prepare) for block in blocks)
    yield at_most("golden_decode", undecoded, 0, "golden images that decode to other pixels")
    for fault, faulty in FAULTS.items():
        noticed = sum(not _decodes(run, block, data.preprocessing, faulty) for block in blocks)
        yield at_least(f"golden_notices_{fault}", noticed, 1, f"golden images that fail with {fault.replace('_', ' ')}")


def _succession(run: RunDirectory, data: RunData) -> Iterator[Check]:
    """A retrained model is not worse than the one it follows, on the test images of the classes that both have."""
    if run.has(PREVIOUS):
        found = compare_with_previous(run, data)
        detail = f"chance of {found.lost} losses against {found.gained} gains if it were no worse (McNemar, one-sided)"
        yield at_least(NOT_WORSE, found.p_worse, SIGNIFICANCE, detail)


def _swapped_channels(data: bytes, spec: Preprocessing) -> Pixels:
    return prepare(data, spec)[:, :, ::-1]


def _ignored_exif(data: bytes, spec: Preprocessing) -> Pixels:
    image = open_image(data, spec)
    load_pixels(image)
    return crop(resize(to_rgb(image, spec.background), spec), spec)


def _another_interpolation(data: bytes, spec: Preprocessing) -> Pixels:
    return prepare(data, spec.model_copy(update={"interpolation": "bicubic" if spec.interpolation != "bicubic" else "bilinear"}))


def _a_shifted_crop(data: bytes, spec: Preprocessing) -> Pixels:
    image = open_image(data, spec)
    load_pixels(image)
    return crop(resize(to_rgb(orient(image), spec.background), spec), spec, offset=1)


FAULTS: Final[Mapping[str, Prepare]] = {
    "swapped_channels": _swapped_channels,
    "ignored_exif": _ignored_exif,
    "another_interpolation": _another_interpolation,
    "a_shifted_crop": _a_shifted_crop,
}
"""Ways to get preprocessing wrong, each of which must break the golden proof."""

CHECKS: Final = (
    *(f"parity_batch_{size}" for size in (1, ODD_BATCH, MAX_BATCH_SIZE)),
    "parity_top1",
    "batch_invariance",
    "accuracy_png",
    "accuracy_jpeg",
    "accuracy_floor",
    "golden_numerics",
    "golden_decode",
    *(f"golden_notices_{fault}" for fault in FAULTS),
    NOT_WORSE,
)
"""The name of every check, so that a slip in a waiver is found before the work and not after it."""


def _decodes(run: RunDirectory, block: Golden, spec: Preprocessing, way: Prepare) -> bool:
    try:
        check_decode((run.path / block.image).read_bytes(), _pixels(run, block), block, spec, way)
    except DecodeProofError:
        return False
    return True


def _pixels(run: RunDirectory, block: Golden) -> Pixels:
    path = run.file(block.pixels, "export")
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise damaged(path, error) from None


def _in_batches(session: Session, pixels: Pixels, size: int) -> Logits:
    return np.concatenate([session.run(pixels[start : start + size]) for start in range(0, len(pixels), size)])


def _largest(difference: Logits) -> float:
    return float(np.abs(difference).max())
