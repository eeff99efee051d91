"""Gate: the export against the live version of its model, by accuracy, latency and size."""

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.errors import ModelStoreError
from model_store.manifest import Check
from model_store.proportions import mcnemar
from model_store.sealed_model import load_variant
from model_store.session import Logits, Session
from model_store.store import ModelStore
from model_store.version import Version
from training.gates.checks import at_least, at_most
from training.gates.vs_previous_version import SIGNIFICANCE
from training.run.data import PIXEL_CHUNK_SIZE, RunData
from training.run.directory import Run
from training.run.inference import run_in_batches
from training.run.known_images import is_known_image, read_version_known_images
from training.steps.evaluate import read_logits
from training.steps.export import EXPORT_MAX_BATCH_SIZE, WEIGHTS_FILE, graph_files

NOT_WORSE_THAN_LIVE_CHECK: Final = "not_worse_than_live"
LATENCY_CHECK: Final = "latency"
SIZE_CHECK: Final = "size"
LIVE_READABLE_CHECK: Final = "live_readable"
MAX_LIVE_RATIO: Final = 2.0
"""Largest allowed latency and size, relative to the live version."""
_MAX_ROUNDS: Final = 15
_MAX_SECONDS: Final = 3.0
_MIN_ROUNDS: Final = 3


def compare_with_live(
    run: Run,
    data: RunData,
    session: Session,
    store: ModelStore,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Check]:
    """Compare the export with the version that `store` serves under the name of the model.

    Yields nothing if there is no published version, or if this run published it. Yields one failed
    check if the live version is damaged. If the run retrains the live version, accuracy is not
    compared, because the check `not_worse` does that. If accuracy cannot be compared for another
    reason, `say` gets the reason, and the manifest has it in the detail of the check `latency`.
    """
    model = run.config.model
    if not store.exists() or model not in store.models() or store.layer(model) != "published":
        return
    try:
        live = store.open(model, store.resolve(model))
    except ModelStoreError as error:
        # A check that can be waived, because this version may replace the damaged one.
        detail = f"the live version cannot be read: {error}"
        yield at_least(LIVE_READABLE_CHECK, 0, 1, detail)
        return
    with live:
        manifest = live.manifest
        if manifest.training is not None and manifest.training.run_id == run.run_id:
            return
        graph = live.path(live.variant().file)
        live_session = load_variant(live, live.variant())
        derived_from = run.config.derived_from
        not_compared: list[str] = []
        if derived_from is None or derived_from.digest != live.digest:
            yield from _accuracy_check(run, data, live_session, live, not_compared.append)
        for reason in not_compared:
            say(reason)
        ratio, times = _latency_ratio(session, live_session, data, live)
        detail = "; ".join([f"times version {live.number}'s: {times}", *not_compared])
        yield at_most(LATENCY_CHECK, ratio, MAX_LIVE_RATIO, detail)
        own_bytes = sum(run.file(name, "export").stat().st_size for name in graph_files(run))
        live_files = [path for path in (graph, graph.with_name(WEIGHTS_FILE)) if path.exists()]
        live_bytes = sum(path.stat().st_size for path in live_files)
        detail = f"times version {live.number}'s: {own_bytes:,} bytes against {live_bytes:,}"
        yield at_most(SIZE_CHECK, own_bytes / live_bytes, MAX_LIVE_RATIO, detail)


def _accuracy_check(
    run: Run, data: RunData, live_session: Session, live: Version, say: Callable[[str], None]
) -> Iterator[Check]:
    """Compare accuracy on shared classes and images that neither model was trained on."""
    names, live_names = data.images.class_names, live.manifest.class_names
    shared = [name for name in names if name in live_names]
    test = data.split.test
    shared_label = np.array([shared.index(name) if name in shared else -1 for name in names])
    labels = shared_label[data.images.labels[test]]
    recorded = read_version_known_images(live)
    not_compared = f"accuracy is not compared with the live version {live.number}: "
    if len(shared) < 2:
        say(f"{not_compared}the models share fewer than two classes")
        return
    if recorded is None:
        say(f"{not_compared}its training images are not recorded")
        return
    compared = (labels >= 0) & ~is_known_image(data.scan, test, recorded)
    if not compared.any():
        say(f"{not_compared}it was trained on every test image of the shared classes")
        return
    labels = labels[compared]
    columns = [names.index(name) for name in shared]
    correct = read_logits(run)[compared][:, columns].argmax(1) == labels
    live_columns = [live_names.index(name) for name in shared]
    live_logits = _live_logits(live_session, data, test[compared], live)
    live_correct = live_logits[:, live_columns].argmax(1) == labels
    gained, lost = int((correct & ~live_correct).sum()), int((live_correct & ~correct).sum())
    detail = (
        f"probability of {lost} losses against {gained} gains if the export is no worse than "
        f"version {live.number}, on {len(labels):,} test images that it was not trained on "
        "(McNemar, one-sided)"
    )
    yield at_least(NOT_WORSE_THAN_LIVE_CHECK, mcnemar(gained, lost), SIGNIFICANCE, detail)


def _live_logits(
    session: Session, data: RunData, indices: NDArray[np.int64], live: Version
) -> Logits:
    """Compute the logits of the live version, through its own preprocessing."""
    spec, batch_size = live.manifest.preprocessing, live.manifest.max_batch_size
    logits = []
    for start in range(0, len(indices), PIXEL_CHUNK_SIZE):
        chunk = indices[start : start + PIXEL_CHUNK_SIZE]
        pixels = data.images.pixels(chunk, spec, data.workers)
        logits.append(run_in_batches(session, pixels, batch_size))
    return np.concatenate(logits)


def _latency_ratio(
    session: Session, live_session: Session, data: RunData, live: Version
) -> tuple[float, str]:
    """Return the larger ratio of export to live latency, and a text with the times.

    One ratio is at batch size 1, the other at the largest batch size that both accept. Each is a
    ratio of medians, measured alternately with one thread.
    """
    spec, live_input = data.preprocessing, live.manifest.input
    ratios, details = [], []
    for size in sorted({1, min(EXPORT_MAX_BATCH_SIZE, live.manifest.max_batch_size)}):
        images = np.zeros((size, spec.crop_height, spec.crop_width, 3), np.uint8)
        live_images = np.zeros((size, live_input.height, live_input.width, 3), np.uint8)
        rounds: list[tuple[float, float]] = []
        began = time.perf_counter()
        while len(rounds) < _MIN_ROUNDS or (
            len(rounds) < _MAX_ROUNDS and time.perf_counter() - began < _MAX_SECONDS
        ):
            rounds.append((_seconds(session, images), _seconds(live_session, live_images)))
        # the first round is the warm-up
        seconds, live_seconds = (median(column) for column in zip(*rounds[1:], strict=True))
        ratios.append(seconds / live_seconds)
        times = f"{seconds * 1e3:.2f} ms against {live_seconds * 1e3:.2f} ms"
        details.append(f"{times} at batch {size}")
    return max(ratios), ", ".join(details)


def _seconds(session: Session, images: NDArray[np.uint8]) -> float:
    began = time.perf_counter()
    session.run(images)
    return time.perf_counter() - began
