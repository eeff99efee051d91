"""Speed of INT8 relative to fp32 with one thread; writes benchmarks/PRECISION.md.

Batches of 1 and 8, both precisions in turn in one process. ResNet-20 is the built-in digits model,
cifar10 the built-in mirrored ResNet-32. ResNet-50 has random weights, which does not affect speed.
"""

import argparse
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from machine import ROOT, describe_machine
from resnet50 import random_resnet50

from model_store.manifest import Input
from model_store.session import Session
from model_store.store import BUILTIN_ROOT
from model_store.timing import BATCH_SIZES, Seconds, time_alternately
from training.quantization.int8 import calibrate
from training.steps.export import OUTPUTS

PACKAGES = ("onnxruntime", "onnx", "torch", "numpy")
CALIBRATION_IMAGES = 16
ROUNDS = {"ResNet-20": 200, "cifar10": 100, "ResNet-50": 15}


def models(*, large: bool) -> Iterator[tuple[str, str, bytes, int]]:
    """Name, description, fp32 file and side of the input in pixels."""
    for name, version, what in (
        ("ResNet-20", "digits-resnet20/1", "built-in digits-resnet20"),
        ("cifar10", "cifar10/1", "built-in, ResNet-32 over an image and its mirror image"),
    ):
        yield name, what, (BUILTIN_ROOT / version / "model.onnx").read_bytes(), 32
    if large:
        yield "ResNet-50", "random weights", random_resnet50(224), 224


def measure(data: bytes, side: int, rounds: int) -> dict[str, Seconds]:
    """Seconds by precision, `[rounds, batches]`, without the first round."""
    noise = np.random.default_rng(0).integers(0, 256, (CALIBRATION_IMAGES, side, side, 3), np.uint8)
    shape = Input(height=side, width=side)
    with tempfile.TemporaryDirectory() as folder:
        files = {"fp32": data, "int8": calibrate(data, [noise]).quantize()}
        runs = {}
        for precision, content in files.items():
            path = Path(folder) / f"{precision}.onnx"
            path.write_bytes(content)
            runs[precision] = Session(path, shape, OUTPUTS).run
        return {
            precision: seconds[1:]
            for precision, seconds in time_alternately(runs, shape, rounds=rounds + 1).items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="Skip ResNet-50.")
    parser.add_argument(
        "--rounds",
        type=int,
        help="Rounds per model; 5 for a quick look.",
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks/PRECISION.md", help="The file to write."
    )
    arguments = parser.parse_args()
    rows = [
        "| network | batch | fp32 ms | INT8 ms | speed-up of INT8 (quartiles) | rounds |",
        "|---|---|---|---|---|---|",
    ]
    for name, what, data, side in models(large=not arguments.small):
        seconds = measure(data, side, arguments.rounds or ROUNDS[name])
        ratios = seconds["fp32"] / seconds["int8"]
        for column, batch in enumerate(BATCH_SIZES):
            low, middle, high = np.quantile(ratios[:, column], (0.25, 0.5, 0.75))
            fp32, int8 = (
                1e3 * np.median(seconds[precision][:, column]) for precision in ("fp32", "int8")
            )
            timed = f"{fp32:.2f} | {int8:.2f} | **{middle:.2f}** ({low:.2f} to {high:.2f})"
            rows.append(f"| {name} ({what}) | {batch} | {timed} | {len(ratios)} |")
            print(rows[-1], flush=True)
    text = [
        "# INT8 compared with fp32",
        "",
        *textwrap.wrap(f"Written by `make bench-precision`. {describe_machine(PACKAGES)}.", 100),
        "",
        "One thread, medians. Both precisions run in turn in one process; the speed-up is computed",
        "round by round.",
        "",
        *rows,
        "",
    ]
    arguments.output.write_text("\n".join(text))


if __name__ == "__main__":
    main()
