"""Measures what `explain` costs a prediction of one image, relative to the run of its model.

PYTHONPATH=. .venv/test/bin/python benchmarks/explanation_cost.py MODEL… [--write FILE]

The image is a JPEG of 640x427. A cost is the CPU time of the output with the last feature map and
of the explanation. Each round measures all of them in random order, on one thread. Writes a
Markdown table of medians of the rounds, with quartiles. A version without a classifier, like the
ResNet-50 of benchmarks/resnet50.py, gets one with random weights.
"""

import argparse
import io
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from machine import ROOT, describe_machine
from PIL import Image

from model_store.activation_maps import ClassifierWeights, has_activation_maps, read_classifier
from model_store.preprocessing import prepare
from model_store.sealed_model import load_variant
from model_store.session import Session
from model_store.store import ModelStore
from model_store.version import Version
from service.prediction.explanation import explain

PACKAGES = ("onnxruntime", "numpy", "pillow")
LABELS = (1, 5)
KINDS = ("map", "overlay")
WARM_UP_ROUNDS = 5


def photograph() -> bytes:
    buffer = io.BytesIO()
    Image.open(ROOT / "docs/images/cat.jpg").resize((640, 427)).save(buffer, "JPEG")
    return buffer.getvalue()


def explainable(version: Version, channels: int) -> SimpleNamespace:
    """The attributes of a loaded version that `explain` uses."""
    manifest = version.manifest
    if has_activation_maps(version):
        classifier = read_classifier(version)
    else:
        shape = (len(manifest.class_names), channels)
        weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        classifier = ClassifierWeights(weight, np.zeros(len(weight), np.float32))
    return SimpleNamespace(
        version=version, preprocessing=manifest.preprocessing, classifier=classifier
    )


def prepare_runs(
    version: Version, session: Session, image: bytes
) -> dict[str, Callable[[], object]]:
    pixels = prepare(image, version.manifest.preprocessing)[None]
    _, features = session.run_with_features(pixels)
    loaded = explainable(version, features.shape[1])
    runs: dict[str, Callable[[], object]] = {
        "logits": partial(session.run, pixels),
        "features": partial(session.run_with_features, pixels),
    }
    for kind in KINDS:
        for labels in LABELS:
            classes = list(range(labels))
            runs[f"{kind} {labels}"] = partial(
                explain, loaded, kind, (640, 427), features[0], classes
            )
    return runs


def time_shuffled(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of CPU time by name, `[rounds]`. Each round has its own order."""
    random = np.random.default_rng(0)
    seconds = {name: np.zeros(rounds) for name in runs}
    for number in range(rounds):
        for name in random.permutation(list(runs)):
            began = time.thread_time()  # other processes do not distort it
            runs[name]()
            seconds[name][number] = time.thread_time() - began
    return {name: each[WARM_UP_ROUNDS:] for name, each in seconds.items()}


def describe_share(shares: np.ndarray) -> str:
    low, median, high = np.quantile(shares, (0.25, 0.5, 0.75))
    return f"{median:.1%} ({low:.1%} to {high:.1%})"


def row(version: Version, rounds: int) -> str:
    session = load_variant(version, version.manifest.variants[0])
    seconds = time_shuffled(prepare_runs(version, session, photograph()), rounds)
    model = seconds["logits"]
    cells = [f"{1e3 * np.median(model):.2f} ms"]
    cells.append(describe_share((seconds["features"] - model) / np.median(model)))
    cells += [
        describe_share(seconds[f"{kind} {labels}"] / np.median(model))
        for kind in KINDS
        for labels in LABELS
    ]
    return f"| {version} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--store", type=Path, default=Path("build/bench/resnet50"))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    columns = [f"{kind}, {labels} label{'s' * (labels > 1)}" for kind in KINDS for labels in LABELS]
    lines = [
        "# The cost of an explanation\n",
        *textwrap.wrap(
            f"Written by `benchmarks/explanation_cost.py`. {describe_machine(PACKAGES)}.", 100
        ),
        "",
        "One image of 640x427, one thread. Percent of the CPU time of the model's run: median and",
        "quartiles of the rounds.\n",
        f"| version | model | output of features | {' | '.join(columns)} |",
        "|---" * (3 + len(columns)) + "|",
    ]
    store = ModelStore(options.store)
    for name in options.models:
        with store.open(name, store.resolve(name)) as version:
            lines.append(row(version, options.rounds))
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
