"""The servers and loops that are measured in turn under full load: limits, Resident, peers."""

import json
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from machine import ROOT, family, processor_seconds, proportional_megabytes
from options import Options
from side_process import count_wrong_answers, running
from sides import OURS, Setup, Side, SideError
from workloads import Workload
from wrk import wrk_load


@dataclass(frozen=True)
class RoundResult:
    """Result of one round. A loop without HTTP has no latency, memory or failures."""

    images_per_second: float
    core_milliseconds: float
    """CPU time of all cores per image in milliseconds, without the load generator."""
    p50: float = float("nan")
    p99: float = float("nan")
    megabytes: float = float("nan")
    failed: int = 0


class Contender(ABC):
    """A server or loop to measure. `prepare` finds its fastest setup, which `how` describes."""

    key: str
    name: str
    how: str = ""

    def __init__(self, workload: Workload, options: Options) -> None:
        self.workload, self.options = workload, options

    @abstractmethod
    def prepare(self, connections: Sequence[int]) -> None:
        """Find the fastest setup under these loads. Raises SideError if it cannot be measured."""

    @abstractmethod
    def measure(self, connections: Sequence[int]) -> list[RoundResult]:
        """One round: a result for each number of connections."""


class Limit(Contender):
    """ONNX Runtime in a loop, with or without decoding."""

    def __init__(self, workload: Workload, options: Options, *, decode: bool) -> None:
        super().__init__(workload, options)
        self.key = f"{'decode' if decode else 'raw'}-{workload.precision}"
        self.name = "decode + ONNX Runtime, no HTTP" if decode else "ONNX Runtime alone"
        self.flags = ["--decode"] if decode else []
        self.loop: dict[str, int] = {}

    def prepare(self, connections: Sequence[int]) -> None:  # noqa: ARG002  a loop has none
        self.loop = run_raw(self.workload, *self.flags)
        self.how = (
            f"{self.loop['instances']} x {self.loop['threads']} threads, batch {self.loop['batch']}"
        )

    def measure(self, connections: Sequence[int]) -> list[RoundResult]:
        loop = map(str, self.loop.values())
        rate = run_raw(
            self.workload, *self.flags, "--seconds", str(self.options.seconds), "--loop", *loop
        )
        return [RoundResult(rate["images_per_second"], rate["core_milliseconds"])] * len(
            connections
        )


class Served(Contender):
    """A server under the load of `wrk`."""

    def __init__(self, side: Side, workload: Workload, options: Options) -> None:
        super().__init__(workload, options)
        self.side, self.setup = side, side.setups[0]
        self.key, self.name = f"{side.key}-{workload.precision}", side.name
        self.extra = options.service if side is OURS else ()

    def prepare(self, connections: Sequence[int]) -> None:
        self.name = f"{self.side.name} {self.side.version()}".strip()
        rates = {setup: self._probe(setup, connections) for setup in self.side.setups}
        self.setup = max(rates, key=lambda setup: rates[setup])
        self.how = " ".join([str(self.setup), *self.extra])

    def measure(self, connections: Sequence[int]) -> list[RoundResult]:
        figures = []
        path, bodies = self.side.path_of(self.workload), self.side.bodies(self.workload)
        with running(self.side, self.workload, self.setup, self.extra) as server:
            for number in connections:
                wrk_load(server.port, path, bodies, number, self.options.warm_up_seconds)
                members = family(server.pid)
                before = processor_seconds(members)
                load = wrk_load(server.port, path, bodies, number, self.options.seconds)
                used, megabytes = (
                    processor_seconds(members) - before,
                    proportional_megabytes(members),
                )
                if not load.images_per_second:
                    raise SideError(
                        f"answered no request within {self.options.seconds:g} s of load"
                    )
                cost = 1e3 * used / load.answered
                figures.append(
                    RoundResult(
                        load.images_per_second, cost, load.p50, load.p99, megabytes, load.failed
                    )
                )
        return figures

    def _probe(self, setup: Setup, connections: Sequence[int]) -> float:
        with running(self.side, self.workload, setup, self.extra) as server:
            if wrong := count_wrong_answers(server, self.workload):
                raise SideError(
                    f"answers {wrong} of {len(self.workload.images)} images differently from "
                    "the model's file"
                )
            path, bodies = self.side.path_of(self.workload), self.side.bodies(self.workload)
            wrk_load(server.port, path, bodies, max(connections), 1)
            probes = [
                wrk_load(server.port, path, bodies, number, self.options.probe_seconds)
                for number in connections
            ]
            return sum(probe.images_per_second for probe in probes)


def run_raw(workload: Workload, *flags: str) -> dict[str, Any]:
    """Run benchmarks/raw.py in a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks/raw.py"), workload.key, *flags]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure_in_rounds(
    contenders: Sequence[Contender], connections: Sequence[int], rounds: int
) -> tuple[dict[str, list[list[RoundResult]]], dict[str, str]]:
    """Measure all contenders in turn (A B C, A B C).

    Returns:
        Results by key, round and number of connections, and the reason for each missing contender.
    """
    missing: dict[str, str] = {}
    figures: dict[str, list[list[RoundResult]]] = {}
    for contender in contenders:
        try:
            contender.prepare(connections)
            figures[contender.key] = []
            print(f"ready: {contender.name} ({contender.how})", flush=True)
        except SideError as error:
            missing[contender.name] = str(error)
            print(f"MISSING: {contender.name} {error}", flush=True)
    for number in range(rounds):
        for contender in contenders:
            if contender.key in figures:
                try:
                    figures[contender.key].append(contender.measure(connections))
                except SideError as error:
                    missing[contender.name] = f"{error}, in round {number + 1}"
                    del figures[contender.key]
                    continue
                rates = ", ".join(
                    f"{figure.images_per_second:.1f}" for figure in figures[contender.key][-1]
                )
                print(
                    f"{number + 1}/{rounds}  {contender.name}, {contender.workload.precision}: "
                    f"{rates} images/s",
                    flush=True,
                )
    return figures, missing
