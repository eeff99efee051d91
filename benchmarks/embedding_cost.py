"""Measures what the output `embedding` costs a prediction, in pairs of runs.

python benchmarks/embedding_cost.py MODEL… [--store STORE]

Compares the served file with the same file without this output, alternately and on one thread: runs
for logits alone, and runs for logits and embedding. Prints a Markdown table of the median ratio of
pairs, with its quartiles. Needs the package `onnx`.
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

from model_store.manifest import Input, Outputs
from model_store.sealed_model import load_variant
from model_store.session import Session
from model_store.store import ModelStore
from model_store.version import Version

PACKAGES = ("onnxruntime", "numpy")
BATCH_SIZES = (1, 8)
WARM_UP_ROUNDS = 5


def without_embedding(version: Version, file: str, folder: Path) -> Session:
    """The variant as it was before this output: its other outputs, and no node for it alone."""
    outputs = version.manifest.outputs
    model = onnx.load_model_from_string(version.read_file(file))
    graph = model.graph
    graph.output.remove(next(value for value in graph.output if value.name == outputs.embedding))
    name = outputs.embedding
    while True:  # the chain of nodes that only this output needs
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
                began = time.thread_time()  # other processes do not distort it
                runs[name](noise[:size])
                seconds[name][number, column] = time.thread_time() - began
    return seconds


def rows(version: Version, rounds: int) -> list[str]:
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for variant in version.manifest.variants:
            session = load_variant(version, variant)
            runs: dict[str, Callable[[np.ndarray], object]] = {
                "without": without_embedding(version, variant.file, Path(folder)).run,
                "logits": session.run,
                "logits and embedding": session.run_with_embedding,
            }
            seconds = time_shuffled(runs, version.manifest.input, rounds)
            base = seconds["without"][WARM_UP_ROUNDS:]
            for column, size in enumerate(BATCH_SIZES):
                ratios = [
                    partial(np.quantile, (times[WARM_UP_ROUNDS:] / base)[:, column] - 1)
                    for times in (seconds["logits"], seconds["logits and embedding"])
                ]
                cells = [
                    f"{ratio(0.5):+.2%} ({ratio(0.25):+.2%} to {ratio(0.75):+.2%})"
                    for ratio in ratios
                ]
                milliseconds = 1e3 * np.median(base[:, column])
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
    print("| version | precision | batch | without the output | logits | logits and embedding |")
    print("|---|---|---|---|---|---|")
    for name in options.models:
        with store.open(name, store.resolve(name)) as version:
            print("\n".join(rows(version, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
