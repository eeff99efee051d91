"""Measures how often warm-up chooses another batch size, and the throughput that this loses.

python benchmarks/batch_size_choice.py [--starts 30] [--busy 2]

Warms up the built-in models in new processes, beside `--busy` processes that use a CPU each. Prints
a Markdown table: how often each size was chosen, and the throughput that the worst choice loses.
The loss is computed from the shortest time of each size over all starts.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping

from machine import describe_machine

from model_store.session import SessionOptions
from model_store.store import BUILTIN_ROOT, ModelStore
from service.engine.options import EngineOptions
from service.engine.warm_model import load_warm_model
from service.engine.warm_up import best_batch_size, seconds_per_image

STORE = ModelStore(BUILTIN_ROOT, builtin_root=None)


def warm_up_all() -> dict[str, dict[int, float]]:
    """Seconds of a run by batch size, for each built-in model."""
    seconds = {}
    for model in STORE.models():
        with STORE.open(model, STORE.resolve(model)) as version:
            seconds[model] = load_warm_model(version, EngineOptions(SessionOptions())).seconds
    return seconds


def lost_throughput(chosen: int, shortest: Mapping[int, float]) -> float:
    """Share of the throughput that a size loses against the best one."""
    per_image = seconds_per_image(shortest)
    return 1 - min(per_image.values()) / per_image[chosen]


def measure(starts: int, busy: int) -> None:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        results = [
            json.loads(subprocess.check_output([sys.executable, __file__, "--one-start"]))
            for _ in range(starts)
        ]
    finally:
        for other in others:
            other.kill()
    print(f"{describe_machine(('onnxruntime', 'numpy'))}; {starts} starts, {busy} busy processes\n")
    print("| model | sizes chosen | lost by the worst choice |\n| --- | --- | --- |")
    for model in STORE.models():
        timed = [{int(size): each for size, each in one[model].items()} for one in results]
        sizes = sorted(set().union(*timed))
        shortest = {size: min(one[size] for one in timed if size in one) for size in sizes}
        chosen = Counter(map(best_batch_size, timed))
        listed = ", ".join(f"{size}: {count}" for size, count in sorted(chosen.items()))
        worst = max(lost_throughput(size, shortest) for size in chosen)
        print(f"| {model} | {listed} | {worst:.1%} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=30)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--one-start", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_start:
        print(json.dumps(warm_up_all()))
    else:
        measure(arguments.starts, arguments.busy)
