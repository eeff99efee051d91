"""`python -m service`: serve the model store over HTTP; or one of the commands beside that, if the first word names one."""

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final


def serve(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    gc.disable()  # what imports make stays: to look through it again and again takes a tenth of the start
    from service.server import main  # noqa: PLC0415  each command pays for its own imports alone

    main(arguments)


def keys(arguments: Sequence[str]) -> None:
    """Make, list and remove keys."""
    from service.commands.keys import main  # noqa: PLC0415  as above

    main(arguments, prog_name="python -m service keys")


def bench(arguments: Sequence[str]) -> None:
    """Load a server and say what it carries."""
    from service.loadtest.bench_command import bench as main  # noqa: PLC0415  as above

    main(arguments, prog_name="python -m service bench")


def tune(arguments: Sequence[str]) -> None:
    """Find a model's best settings on this machine."""
    from service.loadtest.tune_command import tune as main  # noqa: PLC0415  as above

    main(arguments, prog_name="python -m service tune")


COMMANDS: Final[Mapping[str, Callable[[Sequence[str]], None]]] = {
    "serve": serve,
    "keys": keys,
    "bench": bench,
    "tune": tune,
}


def main() -> None:
    """Run the command that the first argument names; without one, serve."""
    name, *rest = sys.argv[1:] or ["serve"]
    if name in COMMANDS:
        COMMANDS[name](rest)
    else:
        serve([name, *rest])


if __name__ == "__main__":
    main()
