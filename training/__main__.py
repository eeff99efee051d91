"""`python -m training`: from data to a published version, in one command or step by step."""

import click
from rich.console import Console

from training.commands import experiment as experiments
from training.commands import import_ as importing
from training.commands import inspect as looking
from training.commands import quantize as precision
from training.commands import retrain as retraining
from training.commands import run as running
from training.commands import steps
from training.commands.options import TrainingGroup


@click.group(cls=TrainingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Train a residual network, and publish it as a sealed version that serves the answers it gave in training.

    `check` looks at your pictures, `run` does everything, `retrain` goes on from what is published when new pictures come, and
    `quantize` makes it faster. `import` brings in a network that was trained elsewhere.
    Each step is also a command of its own on a run's directory: train, evaluate, calibrate, export, gate, publish. A run that
    was cut goes on with `resume`; `runs`, `compare` and `report` show what there is.
    """
    context.obj = Console()


for command in (
    looking.check,
    running.run,
    running.resume,
    retraining.retrain,
    running.cross_validate,
    looking.find_rate,
    importing.import_network,
    precision.quantize,
    steps.train,
    steps.evaluate,
    steps.calibrate,
    steps.export,
    steps.gate,
    steps.publish,
    looking.report,
    looking.runs,
    looking.compare,
    looking.recipes,
    experiments.experiment,
):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="python -m training")
