"""The command `resident`: every command of the three packages under one name.

A command's module is imported only when the command runs. `resident --help` is therefore fast, and
a command whose packages are missing can say which extra to install.
"""

import importlib
from collections.abc import Callable
from typing import Final

import click

from model_store.command_line import CommandGroup, LazyCommand

Entry = tuple[str, str, str]
"""Name of a command, its location as `module:attribute`, and its summary."""

SECTIONS: Final[dict[str, tuple[str | None, tuple[Entry, ...]]]] = {
    "Serve": (
        "service",
        (
            ("serve", "service.commands.serve:serve", "Serve the models of a store over HTTP."),
            ("predict", "service.commands.predict:predict", "Classify images with a model."),
            ("keys", "service.commands.keys:keys", "Create, list and remove API keys."),
        ),
    ),
    "Measure": (
        "tune",
        (
            ("bench", "service.loadtest.bench_command:bench", "Load a server and measure it."),
            ("tune", "service.loadtest.tune_command:tune", "Find the best settings for a model."),
        ),
    ),
    "Model store": (
        None,
        (("store", "model_store.__main__:main", "Inspect and verify versions, move aliases."),),
    ),
    "Train": (
        "training",
        tuple(
            (name, f"training.__main__:main.{name}", summary)
            for name, summary in (
                ("check", "Check a data set before training."),
                ("run", "Train a model, from images to a published version."),
                ("resume", "Continue an interrupted run."),
                ("retrain", "Train a published model on new images or classes."),
                ("import", "Publish a network that was trained elsewhere."),
                ("quantize", "Publish a version in another precision."),
                ("add-embedding", "Publish an older version with the output `embedding`."),
                ("add-report", "Publish an older version with a report of its evaluation."),
                ("fit-density", "Publish an older version with a density to abstain by."),
                ("experiment", "Repeat the experiments on residual learning."),
                ("cross-validate", "Measure accuracy by cross-validation."),
                ("find-lr", "Find a learning rate."),
                ("recipes", "List the training recipes."),
                ("runs", "List runs."),
                ("compare", "Compare runs in one report."),
                ("report", "Write a run's report."),
            )
        ),
    ),
    "Single steps of a run": (
        "training",
        tuple(
            (name, f"training.__main__:main.{name}", summary)
            for name, summary in (
                ("train", "Train a network."),
                ("evaluate", "Evaluate a run on the test split."),
                ("calibrate", "Calibrate a run's scores."),
                ("export", "Export a run to ONNX."),
                ("gate", "Check a run's export before it is published."),
                ("publish", "Publish a run's model as a version."),
            )
        ),
    ),
}


def _loader(name: str, place: str) -> Callable[[], click.Command]:
    def load() -> click.Command:
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(
            importlib.import_module(module), attribute.partition(".")[0]
        )
        if "." in attribute and isinstance(command, CommandGroup):
            # A command of a group: the group lists the errors that its commands raise.
            main.expected = (*main.expected, *command.expected)
            command = command.commands[name]
        return command

    return load


class ResidentGroup(CommandGroup):
    """Lists commands by section in its help."""

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """Write one table per section."""
        for title, (_, entries) in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, summary) for name, _, summary in entries])


@click.group(cls=ResidentGroup)
def main() -> None:
    """Train residual image classifiers and serve them with the accuracy that you measured.

    \b
      resident serve                              serve the built-in models
      resident run --data PHOTOS --model flowers  train and publish your own

    `resident COMMAND --help` explains a command.
    """


for extra, entries in SECTIONS.values():
    for name, place, summary in entries:
        main.add_command(LazyCommand(name, _loader(name, place), summary, extra))
