"""The command line of `make bench`."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from sides import ALL_PEERS, Side

ROWS = (
    "resnet20",
    "resnet50",
    "protocols",
    "latency",
    "defaults",
    "overload",
    "start",
    "reloads",
    "decode",
)


@dataclass(frozen=True)
class Options:
    """Durations and repetitions; `service` are flags for Resident."""

    seconds: float
    rounds: int
    overload_seconds: float
    overload_rounds: int
    starts: int
    reloads: int
    reload_requests: int
    probe_seconds: float
    peers: tuple[Side, ...]
    rows: tuple[str, ...]
    service: tuple[str, ...]

    def with_seconds_times(self, factor: int) -> Self:
        """Copy with `factor` times the seconds, for models that answer few images per second."""
        return replace(
            self, seconds=factor * self.seconds, probe_seconds=factor * self.probe_seconds
        )

    @property
    def warm_up_seconds(self) -> float:
        return max(1.0, self.seconds / 4)


def parse(description: str | None, arguments: Sequence[str] | None = None) -> Options:
    keys = [side.key for side in ALL_PEERS]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--seconds", type=float, default=10, help="seconds per measurement; default 10"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements per side; default 5")
    parser.add_argument(
        "--only", action="append", choices=ROWS, help="run one measurement; can be repeated"
    )
    parser.add_argument(
        "--peers", default=",".join(keys), help=f"some of {','.join(keys)}; default all"
    )
    parser.add_argument(
        "--quick", action="store_true", help="2 seconds, 1 round, 2 starts: a smoke test"
    )
    parser.add_argument(
        "--service",
        default="",
        metavar="FLAGS",
        help='flags for Resident, like "--max-batch-size 16"',
    )
    given = parser.parse_args(arguments)
    chosen = [key for key in given.peers.split(",") if key]
    if unknown := sorted(set(chosen) - set(keys)):
        parser.error(f"--peers: expected some of {', '.join(keys)}, got {', '.join(unknown)}")
    quick = given.quick
    return Options(
        seconds=2 if quick else given.seconds,
        rounds=1 if quick else given.rounds,
        overload_seconds=10 if quick else 60,
        overload_rounds=1 if quick else 3,
        starts=2 if quick else 10,
        reloads=5 if quick else 100,
        reload_requests=2_000 if quick else 100_000,
        probe_seconds=1 if quick else 4,
        peers=tuple(side for side in ALL_PEERS if side.key in chosen),
        rows=tuple(given.only or ROWS),
        service=tuple(shlex.split(given.service)),
    )
