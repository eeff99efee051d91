"""What a person may say of all measurements."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from sides import ALL_PEERS, Side

ROWS = ("resnet20", "resnet50", "latency", "overload", "start", "reloads", "decode")


@dataclass(frozen=True)
class Options:
    """How long and how often; `service` are flags for ours."""

    seconds: float
    turns: int
    overload_seconds: float
    overload_turns: int
    starts: int
    reloads: int
    reload_requests: int
    look_seconds: float
    peers: tuple[Side, ...]
    rows: tuple[str, ...]
    service: tuple[str, ...]

    def lasting(self, factor: int) -> Self:
        """The same with measurements that many times as long: for servers of which few answers a second can be expected."""
        return replace(self, seconds=factor * self.seconds, look_seconds=factor * self.look_seconds)

    @property
    def warm_up_seconds(self) -> float:
        """Load before the load that is counted."""
        return max(1.0, self.seconds / 4)


def parse(description: str | None, arguments: Sequence[str] | None = None) -> Options:
    """From the command line."""
    keys = [side.key for side in ALL_PEERS]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement; default 10")
    parser.add_argument(
        "--turns", type=int, default=5, help="how often each side has its turn; default 5"
    )
    parser.add_argument(
        "--only", action="append", choices=ROWS, help="one measurement; may be repeated"
    )
    parser.add_argument(
        "--peers", default=",".join(keys), help=f"of {','.join(keys)}; default all, empty for none"
    )
    parser.add_argument(
        "--quick", action="store_true", help="2 seconds, 1 turn, 2 starts: to see that all works"
    )
    parser.add_argument(
        "--service", default="", metavar="FLAGS", help='flags for ours, as "--max-batch-size 16"'
    )
    given = parser.parse_args(arguments)
    chosen = [key for key in given.peers.split(",") if key]
    if unknown := sorted(set(chosen) - set(keys)):
        parser.error(f"--peers: there is no {', '.join(unknown)}; there are {', '.join(keys)}")
    quick = given.quick
    return Options(
        seconds=2 if quick else given.seconds,
        turns=1 if quick else given.turns,
        overload_seconds=10 if quick else 60,
        overload_turns=1 if quick else 3,
        starts=2 if quick else 10,
        reloads=5 if quick else 100,
        reload_requests=2_000 if quick else 100_000,
        look_seconds=1 if quick else 4,
        peers=tuple(side for side in ALL_PEERS if side.key in chosen),
        rows=tuple(given.only or ROWS),
        service=tuple(shlex.split(given.service)),
    )
