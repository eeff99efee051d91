"""Compares the speed of a training step with a plain PyTorch loop; writes TRAINING.md.

ResNet-20, batches of 128, 32x32 images, padded crops and flips. Each side runs in a process of its
own, in turn, so that a busy machine affects all sides alike.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import textwrap
import time

import numpy as np
import torch
from machine import ROOT, describe_machine
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from training.learning.batches import BatchLoader, PixelsOnDevice
from training.learning.determinism import determinism_info, has_bf16, keep_freed_memory
from training.learning.distributed import SINGLE_PROCESS
from training.learning.learner import Learner
from training.learning.networks import build_network
from training.learning.normalization import Normalization
from training.learning.recipe_file import load_recipe
from training.learning.throughput import ThroughputMeter

IMAGES, BATCH, WARM_UP, STEPS, ROUNDS = 6400, 128, 5, 40, 5
PACKAGES = ("torch", "torchvision", "pillow")
CPU = torch.device("cpu")


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Images in memory with torchvision's transforms."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self.images = [Image.fromarray(image) for image in pixels]
        self.labels = labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def plain(pixels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The loop of a PyTorch tutorial: a loader with two workers, a model and an optimizer."""
    loader = DataLoader(Pictures(pixels, labels), batch_size=BATCH, shuffle=True, num_workers=2)
    model = build_network("resnet20", 10)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    seconds, began = [], 0.0
    for step, (images, targets) in enumerate(loader):
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - began)
        if step == WARM_UP + STEPS:
            break
        began = time.perf_counter()
        logits = model(images)
        loss = functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        (logits.argmax(1) == targets).sum().item()
    return {"images_per_second": BATCH * len(seconds) / sum(seconds)}


def resident(
    pixels: np.ndarray, labels: np.ndarray, precision: str = "fp32", *, compiled: bool = False
) -> dict[str, float]:
    """Resident's own step, as `train` calls it."""
    keep_freed_memory()
    recipe = load_recipe("he2015", ["normalization=scalar", "iterations=1000"])
    normalize = Normalization.fit("scalar", pixels)
    loader = BatchLoader(
        PixelsOnDevice(torch.from_numpy(pixels), CPU),
        torch.from_numpy(labels),
        10,
        recipe,
        normalize,
        32,
        torch.zeros(3, 1, 1),
        0,
        SINGLE_PROCESS,
    )
    learner = Learner(
        build_network("resnet20", 10),
        recipe,
        SINGLE_PROCESS,
        determinism_info(CPU, precision, compiled=compiled),
    )
    learner.train()
    throughput, seconds, began = ThroughputMeter(), [], time.perf_counter()
    for step, batch in enumerate(throughput.timed(loader.epoch_batches(0))):
        learner.step(batch).tolist()
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        if step == WARM_UP + STEPS - 1:
            break
    return {
        "images_per_second": BATCH * len(seconds) / sum(seconds),
        "input_share": throughput.input_share,
    }


SIDES = {
    "plain": ("a plain PyTorch loop (contiguous, PIL transforms, two workers)", plain),
    "resident": ("Resident, fp32", resident),
    "compiled": (
        "Resident, fp32, torch.compile",
        lambda pixels, labels: resident(pixels, labels, compiled=True),
    ),
    "bf16": ("Resident, bf16", lambda pixels, labels: resident(pixels, labels, "bf16")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="Also measure torch.compile, a minute per round.",
    )
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 10, IMAGES)
    if arguments.side:
        print(json.dumps(SIDES[arguments.side][1](pixels, labels)))
        return
    sides = [
        "plain",
        "resident",
        *(["compiled"] if arguments.compiled else []),
        *(["bf16"] if has_bf16(CPU) else []),
    ]
    results: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(ROUNDS):
        for side in sides:
            command = [sys.executable, __file__, "--side", side]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                command, env=environment, capture_output=True, check=True, text=True
            )
            results[side].append(json.loads(done.stdout))
            print(
                f"{number + 1}/{ROUNDS}  {side}: "
                f"{results[side][-1]['images_per_second']:.0f} images/s",
                flush=True,
            )
    ratios = {
        side: [
            own["images_per_second"] / base["images_per_second"]
            for own, base in zip(rounds, results["plain"], strict=True)
        ]
        for side, rounds in results.items()
    }
    rows = [
        "| loop | images/s | relative to the plain loop, round by round | waits for images |",
        "|---|---|---|---|",
    ]
    for side, rounds in results.items():
        speeds = [figure["images_per_second"] for figure in rounds]
        shares = [figure["input_share"] for figure in rounds if "input_share" in figure]
        ratio = ratios[side]
        waits = f"{statistics.median(shares):.1%}" if shares else ""
        rows.append(
            f"| {SIDES[side][0]} "
            f"| {statistics.median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f}) "
            f"| {statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f}) | {waits} |"
        )
    text = [
        "# A training step",
        "",
        *textwrap.wrap(f"Written by `make bench-training`. {describe_machine(PACKAGES)}.", 100),
        "",
        f"ResNet-20, batches of {BATCH}, 32x32 images in memory, crops from 4 pixels of padding,",
        f"flips. Each loop runs in its own process, {STEPS} steps after {WARM_UP} that are not",
        f"counted, in round, {ROUNDS} times; medians (minimum to maximum).",
        "",
        *rows,
        "",
    ]
    (ROOT / "benchmarks/TRAINING.md").write_text("\n".join(text))
    print("\n".join(rows))


if __name__ == "__main__":
    main()
