"""`python -m service`: serve the model store over HTTP, or run the command given first."""

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Final


def serve(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    gc.disable()  # collections during the imports take a tenth of the start
    from service.server import main  # noqa: PLC0415  each command imports only what it needs

    main(arguments)


def keys(arguments: Sequence[str]) -> None:
    """Make, list and remove keys."""
    from service.commands.keys import main  # noqa: PLC0415  as above

    main(arguments, prog_name="python -m service keys")


def _require_loadtest(command: str) -> None:
    if find_spec("service.loadtest") is None:
        sys.exit(
            f"`{command}` is a load test and not part of the serving image. Run it elsewhere: "
            f"pip install 'resident[service,tune]', then python -m service {command} --help"
        )


def bench(arguments: Sequence[str]) -> None:
    """Load a server and report throughput and latency."""
    _require_loadtest("bench")
    from service.loadtest.bench_command import bench as main  # noqa: PLC0415  as above

    main(arguments, prog_name="python -m service bench")


def tune(arguments: Sequence[str]) -> None:
    """Find a model's best settings on this machine."""
    _require_loadtest("tune")
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
