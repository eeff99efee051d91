"""`python -m training`: from data to a published version, in one command or step by step."""

import click

from model_store.command_line import CommandGroup
from model_store.errors import ModelStoreError
from training.commands import (
    add_embedding,
    add_report,
    experiment,
    fit_density,
    import_,
    inspect,
    quantize,
    retrain,
    run,
    steps,
)
from training.errors import TrainingError


@click.group(cls=CommandGroup, expected=(TrainingError, ModelStoreError), extra="training")
def main() -> None:
    """Train residual image classifiers and publish them as sealed versions in a model store.

    \b
    python -m training run --data PICTURES --model flowers

    `run` does all steps, and `resume` continues a stopped run. `retrain` trains a published model
    on new images, `quantize` makes a version faster, and `import` publishes a network that was
    trained elsewhere. `add-embedding`, `fit-density` and `add-report` add to an older version
    what newer ones have. `check` only checks the data. `train`, `evaluate`, `calibrate`, `export`,
    `gate` and `publish` do one step of a run each; `runs`, `compare` and `report` show results.
    """


for command in (
    inspect.check,
    run.run,
    run.resume,
    retrain.retrain,
    run.cross_validate,
    inspect.find_rate,
    import_.import_network,
    quantize.quantize,
    add_embedding.add_embedding,
    fit_density.fit_density,
    add_report.add_report,
    steps.train,
    steps.evaluate,
    steps.calibrate,
    steps.export,
    steps.gate,
    steps.publish,
    inspect.report,
    inspect.runs,
    inspect.compare,
    inspect.recipes,
    experiment.experiment,
):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="python -m training")
