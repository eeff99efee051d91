"""A new export beside the live version of its model: as good on the same images, and not twice as slow or large unnoticed."""

import time
from collections.abc import Iterator
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.errors import ModelStoreError
from model_store.manifest import Check
from model_store.session import Logits, Session
from model_store.store import ModelStore
from model_store.version import Version
from training.gates.checks import at_least, at_most
from training.gates.vs_previous_version import SIGNIFICANCE, mcnemar
from training.run.data import PIXEL_CHUNK_SIZE, RunData, is_known_image, read_version_known_images
from training.run.directory import RunDirectory
from training.run.inference import run_in_batches
from training.steps.evaluate import read_logits
from training.steps.export import WEIGHTS_FILE, graph_files

NOT_WORSE_THAN_LIVE_CHECK: Final = "not_worse_than_live"
LATENCY_CHECK: Final = "latency"
SIZE_CHECK: Final = "size"
LIVE_READABLE_CHECK: Final = "live_readable"
MAX_LIVE_RATIO: Final = (
    2.0  # of the live version's; what is meant to be slower or larger is waived with its reason
)
_ROUNDS: Final = 15
_SECONDS: Final = 3.0


def compare_with_live(
    run: RunDirectory, data: RunData, session: Session, batch: int, store: ModelStore
) -> Iterator[Check]:
    """Accuracy, latency at one image and at `batch`, and size, against what `store` serves under the model's name.

    Nothing where it has no published version, or only this run's own; a failed check where that is damaged. Accuracy is
    compared on the test images that the live version did not learn from, among the classes of the same name; for a run that
    goes on from it the gates of retraining do so.
    """
    model = run.config().model
    if not store.root.exists() or model not in store.models() or store.layer(model) != "published":
        return
    try:
        live = store.open(model, store.resolve(model))
    except ModelStoreError as error:  # its successor may be what mends it
        yield at_least(
            LIVE_READABLE_CHECK, 0, 1, f"the live version can not be compared with: {error}"
        )
        return
    with live:
        manifest = live.manifest
        if manifest.training is not None and manifest.training.run_id == run.run_id:
            return
        graph = live.path(live.variant().file)
        old = Session(graph, manifest.input, manifest.outputs)
        derived_from = run.config().derived_from
        if derived_from is None or derived_from.digest != live.digest:
            yield from _accuracy(run, data, old, live)
        ratio, detail = _latency(session, old, data, live, batch)
        yield at_most(
            LATENCY_CHECK, ratio, MAX_LIVE_RATIO, f"times version {live.number}'s: {detail}"
        )
        new_bytes = sum(run.file(name, "export").stat().st_size for name in graph_files(run))
        old_bytes = sum(
            path.stat().st_size for path in (graph, graph.with_name(WEIGHTS_FILE)) if path.exists()
        )
        detail = f"times version {live.number}'s: {new_bytes:,} bytes against {old_bytes:,}"
        yield at_most(SIZE_CHECK, new_bytes / old_bytes, MAX_LIVE_RATIO, detail)


def _accuracy(run: RunDirectory, data: RunData, old: Session, live: Version) -> Iterator[Check]:
    names, old_names = data.images.class_names, live.manifest.class_names
    shared = [name for name in names if name in old_names]
    test = data.split.test
    labels = np.array([shared.index(name) if name in shared else -1 for name in names])[
        data.images.labels[test]
    ]
    fresh = (labels >= 0) & ~is_known_image(data, test, read_version_known_images(live))
    if len(shared) < 2 or not fresh.any():
        return
    new_right = (
        read_logits(run)[fresh][:, [names.index(name) for name in shared]].argmax(1)
        == labels[fresh]
    )
    scores = _scores(old, data, test[fresh], live)
    old_right = scores[:, [old_names.index(name) for name in shared]].argmax(1) == labels[fresh]
    gained, lost = int((new_right & ~old_right).sum()), int((old_right & ~new_right).sum())
    detail = (
        f"chance of {lost} losses against {gained} gains if it were no worse than version {live.number} "
        f"on {int(fresh.sum()):,} test images (McNemar, one-sided)"
    )
    yield at_least(NOT_WORSE_THAN_LIVE_CHECK, mcnemar(gained, lost), SIGNIFICANCE, detail)


def _scores(session: Session, data: RunData, indices: NDArray[np.int64], live: Version) -> Logits:
    """What the live version says of these images, through its own preprocessing."""
    spec, size = live.manifest.preprocessing, live.manifest.max_batch_size
    rows = []
    for start in range(0, len(indices), PIXEL_CHUNK_SIZE):
        pixels = data.images.pixels(indices[start : start + PIXEL_CHUNK_SIZE], spec, data.workers)
        rows.append(run_in_batches(session, pixels, size))
    return np.concatenate(rows)


def _latency(
    new: Session, old: Session, data: RunData, live: Version, batch: int
) -> tuple[float, str]:
    """The larger ratio of median times at one image and at a batch, both measured in turn on one thread, and what it is made of."""
    spec, old_input = data.preprocessing, live.manifest.input
    batch = min(batch, live.manifest.max_batch_size)
    found = []
    for size in sorted({1, batch}):
        mine = np.zeros((size, spec.crop_height, spec.crop_width, 3), np.uint8)
        theirs = np.zeros((size, old_input.height, old_input.width, 3), np.uint8)
        times: list[tuple[float, float]] = []
        began = time.perf_counter()
        while len(times) < 3 or (len(times) < _ROUNDS and time.perf_counter() - began < _SECONDS):
            times.append((_seconds(new, mine), _seconds(old, theirs)))
        new_time, old_time = (
            median(column) for column in zip(*times[1:], strict=True)
        )  # the first round warms both
        found.append(
            (
                new_time / old_time,
                f"{new_time * 1e3:.2f} ms against {old_time * 1e3:.2f} at batch {size}",
            )
        )
    return max(ratio for ratio, _ in found), ", ".join(detail for _, detail in found)


def _seconds(session: Session, images: NDArray[np.uint8]) -> float:
    began = time.perf_counter()
    session.run(images)
    return time.perf_counter() - began
