"""`python -m service [COMMAND]`: run a command of the service; without a command, serve."""

import gc
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import click

COMMANDS: Final = ("serve", "predict", "keys", "bench", "tune")
LOAD_TESTS: Final = ("bench", "tune")


def load_command(name: str) -> "click.Command":
    """Import one command, without what only other commands need."""
    if name in LOAD_TESTS and find_spec("service.loadtest") is None:
        sys.exit(
            f"`{name}` is a load test and not part of the serving image. Run it from a checkout: "
            f"pip install '.[service,tune]', then python -m service {name} --help"
        )
    match name:
        case "predict":
            from service.commands.predict import predict  # noqa: PLC0415

            return predict
        case "keys":
            from service.commands.keys import keys  # noqa: PLC0415

            return keys
        case "bench":
            from service.loadtest.bench_command import bench  # noqa: PLC0415

            return bench
        case "tune":
            from service.loadtest.tune_command import tune  # noqa: PLC0415

            return tune
        case _:
            # Garbage collection during imports takes a tenth of the startup time.
            # `service.server.run` enables it again.
            gc.disable()
            from service.commands.serve import serve  # noqa: PLC0415

            return serve


def main() -> None:
    name, *rest = sys.argv[1:] or ["serve"]
    if name not in COMMANDS:
        load_command("serve").main(sys.argv[1:], prog_name="python -m service")
    else:
        program = "python -m service" if name == "serve" else f"python -m service {name}"
        load_command(name).main(rest, prog_name=program)


if __name__ == "__main__":
    main()
