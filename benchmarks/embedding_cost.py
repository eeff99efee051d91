"""Measures what embeddings and abstention by density cost a prediction, in pairs of runs.

python benchmarks/embedding_cost.py MODEL… [--store STORE]

Compares the served file with the same file without the output `embedding`, in random order and on
one thread: runs for logits alone, and for logits and embedding. For versions with a density, it
compares abstention by density with abstention by energy. Prints a Markdown table of the median
ratio of pairs, with its quartiles. Needs the package `onnx`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from machine import describe_machine

from model_store.density import Density
from model_store.manifest import Input, Outputs
from model_store.sealed_model import load_density, load_variant
from model_store.session import Session
from model_store.store import ModelStore
from model_store.uncertainty import energy
from model_store.version import Version

PACKAGES = ("onnxruntime", "numpy")
BATCH_SIZES = (1, 8)
WARM_UP_ROUNDS = 5


def without_embedding(version: Version, file: str, folder: Path) -> Session:
    """The variant without this output and without the nodes that only this output needs."""
    outputs = version.manifest.outputs
    model = onnx.load_model_from_string(version.read_file(file))
    graph = model.graph
    graph.output.remove(next(value for value in graph.output if value.name == outputs.embedding))
    name = outputs.embedding
    while True:  # removes the nodes that only this output needs, last one first
        if any(name in node.input for node in graph.node):
            break
        node = next(node for node in graph.node if name in node.output)
        graph.node.remove(node)
        name = node.input[0]
    path = folder / "without.onnx"
    onnx.save(model, path)
    return Session(path, version.manifest.input, Outputs(logits=outputs.logits, kind=outputs.kind))


def time_shuffled(
    runs: dict[str, Callable[[np.ndarray], object]], shape: Input, rounds: int
) -> dict[str, np.ndarray]:
    """Seconds of CPU time by name, `[rounds, batch sizes]`. Each round has its own order."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (max(BATCH_SIZES), shape.height, shape.width, 3), np.uint8)
    seconds = {name: np.zeros((rounds, len(BATCH_SIZES))) for name in runs}
    for number in range(rounds):
        for column, size in enumerate(BATCH_SIZES):
            for name in random.permutation(list(runs)):
                runs[name](noise[:size])  # weights and code are in the caches then
                began = time.thread_time()  # other processes do not distort it
                runs[name](noise[:size])
                seconds[name][number, column] = time.thread_time() - began
    return seconds


def abstain(session: Session, density: Density | None, images: np.ndarray) -> object:
    """The steps with which the service decides whether the model abstains."""
    if density is None:
        return energy(session.run(images))
    logits, embeddings = session.run_with_embedding(images)
    return density.score(embeddings, energy(logits))


def describe_ratio(ratios: np.ndarray) -> str:
    low, median, high = np.quantile(ratios[WARM_UP_ROUNDS:], (0.25, 0.5, 0.75)) - 1
    return f"{median:+.2%} ({low:+.2%} to {high:+.2%})"


def rows(version: Version, rounds: int) -> list[str]:
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for variant in version.manifest.variants:
            session = load_variant(version, variant)
            density = load_density(version, session.embedding_dims)
            runs: dict[str, Callable[[np.ndarray], object]] = {
                "without": without_embedding(version, variant.file, Path(folder)).run,
                "logits": session.run,
                "logits and embedding": session.run_with_embedding,
                "energy": partial(abstain, session, None),
            }
            pairs = [("logits", "without"), ("logits and embedding", "without")]
            if density:
                runs["density"] = partial(abstain, session, density)
                pairs.append(("density", "energy"))
            seconds = time_shuffled(runs, version.manifest.input, rounds)
            for column, size in enumerate(BATCH_SIZES):
                cells = [
                    describe_ratio(seconds[name][:, column] / seconds[base][:, column])
                    for name, base in pairs
                ]
                milliseconds = 1e3 * np.median(seconds["without"][:, column])
                lines.append(
                    f"| {version} | {variant.precision} | {size} | {milliseconds:.2f} ms "
                    f"| {' | '.join(cells)} |"
                )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--store", type=Path, default=Path("model_store/models"))
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args()
    store = ModelStore(options.store)
    print(f"{describe_machine(PACKAGES)}.\n")
    print(
        "| version | precision | batch | without the output | logits | logits and embedding "
        "| density instead of energy |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in options.models:
        with store.open(name, store.resolve(name)) as version:
            print("\n".join(rows(version, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
