"""Identity: a deeper network that copies a shallower one, and layers that learn to copy (He et al. 2015, section 1 and 3.1)."""

import copy
import itertools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from training.errors import RecipeError
from training.experiments.constructed_network import STAGES, deepen, stage_maps
from training.experiments.experiment_report import (
    Report,
    ReportColumn,
    ReportFigure,
    ReportSection,
    Table,
    drawn,
)
from training.experiments.identity_stacks import (
    BATCH,
    KINDS,
    LAST_STEPS,
    MOMENTUM,
    RATES,
    CopyingErrors,
    best_rate,
    build_stack,
    learn_to_copy,
)
from training.experiments.identity_verdicts import (
    CLAIM,
    CONSTRUCTED,
    COPIED,
    SOURCES,
    TRAINED_ON,
    verdicts,
)
from training.experiments.laboratory import TWINS, Laboratory, TrainedRun, top1
from training.experiments.run_description import command, describe
from training.experiments.sample_images import counted
from training.experiments.training_steps import answers, loss_of, prepare, sample_images, take_steps
from training.learning.learner import Learner
from training.learning.networks import parse_architecture
from training.reports.figures import Line, draw_lines
from training.statistics import listed

COMPARED: Final = 2048
"""Training images on which the constructed network is held against the shallower one."""
COPIED_IMAGES: Final = 1024
COPIED_STAGE: Final = "layer2"
STACKS: Final = (1, 3, 9)
STARTS: Final = (0, 1, 2)
RATE_PART: Final = 0.1
"""The rate with which constructed networks train on, as a part of the recipe's: the whole of it would undo what was learned."""


def perform(
    laboratory: Laboratory,
    depth: int,
    deeper: int,
    seeds: Sequence[int],
    steps: int,
    copy_steps: int,
) -> Report:
    """Train the shallower networks (or read them), build on them, and say what came out. Raises TrainingError."""
    laboratory.require([f"{family}{layers}" for layers in (depth, deeper) for family in TWINS])
    if parse_architecture(f"plain{depth}").style != "cifar":
        raise RecipeError(
            f"networks of {depth} layers have stages of their own kind: build on those of 20, 32, 44, 56 or 110"
        )
    if deeper <= depth:
        raise RecipeError(
            f"a network of {deeper} layers is not deeper than one of {depth}: make --deeper the greater"
        )
    runs = {
        (family, seed): laboratory.train(f"{family}{depth}", seed)
        for seed in seeds
        for family in TWINS
    }
    measured = {key: construct(laboratory, run, deeper, steps) for key, run in runs.items()}
    built = {family: [measured[family, seed] for seed in seeds] for family in TWINS}
    copied, maps_of = copy_maps(laboratory, runs["resnet", seeds[0]], copy_steps)
    rate = RATE_PART * next(iter(runs.values())).config.recipe.optimizer.learning_rate
    first, copy_length = built["plain"][0], copied[0].errors.shape[1]
    return Report(
        name="identity",
        title="Identity: can a deeper network copy a shallower one, and can layers learn to?",
        claim=CLAIM,
        sources=SOURCES,
        verdicts=verdicts(built, copied, depth, deeper),
        parts=[
            ReportSection(
                "The constructed solution",
                [CONSTRUCTED.format(depth=depth, deeper=deeper, images=f"{first['images']:,}")],
                tables=[construction_table(built, depth, deeper, seeds)],
            ),
            ReportSection(
                "Training on from there",
                [TRAINED_ON.format(rate=f"{rate:g}", steps=len(first["trained_on"]["deep"]))],
                [draw_trained_on(family, built[family], depth, deeper) for family in TWINS],
                files=[trained_on_table(built, depth, deeper, seeds)],
            ),
            ReportSection(
                "Learning the identity",
                [
                    COPIED.format(
                        *(
                            f"{maps_of:,}",
                            f"resnet{depth} (seed {seeds[0]})",
                            COPIED_STAGE,
                            MOMENTUM,
                        ),
                        *(
                            listed(RATES, " and "),
                            len(STARTS),
                            copy_length,
                            min(LAST_STEPS, copy_length),
                        ),
                    )
                ],
                [draw_copied(copied)],
                [copied_table(copied)],
                [copied_points(copied)],
            ),
        ],
        setting=describe(laboratory, list(runs.values())),
        commands=[
            command(
                *(laboratory, "identity", "--depth", str(depth), "--deeper", str(deeper)),
                *("--steps", str(steps), "--copy-steps", str(copy_steps)),
                seeds=seeds,
            )
        ],
    )


def construct(laboratory: Laboratory, run: TrainedRun, deeper: int, steps: int) -> dict[str, Any]:
    """A run's network and the deeper one built on it: how they answer, and how they train on."""
    architecture = run.architecture.rstrip("0123456789") + str(deeper)
    of = run.identity() | {"deeper": deeper, "steps": steps, "images": COMPARED, "rate": RATE_PART}
    values: dict[str, Any] = laboratory.measured(
        f"construction-{architecture}", of, lambda: _construct(laboratory, run, deeper, steps)
    )
    return values


def _construct(laboratory: Laboratory, run: TrainedRun, deeper: int, steps: int) -> dict[str, Any]:
    images, labels = sample_images(laboratory, run, COMPARED)
    shallow = copy.deepcopy(run.trained.network).to(
        images.device
    )  # it trains on below; the run's own stays as it was trained
    architecture = run.architecture.rstrip("0123456789") + str(deeper)
    torch.manual_seed(
        run.seed
    )  # draws the convolutions of residual identities, which count once they train on
    deep = deepen(shallow, architecture, run.trained.classes, images)
    logits = {"shallow": answers(shallow, images), "deep": answers(deep, images)}
    found: dict[str, Any] = {
        "images": len(images),
        "difference": (logits["deep"] - logits["shallow"]).abs().max().item(),
        "largest": logits["shallow"].abs().max().item(),
        "loss": {name: loss_of(its, labels) for name, its in logits.items()},
        "error": {name: 1 - top1(its, labels) for name, its in logits.items()},
    }
    loader, determinism = prepare(laboratory, run)
    found["trained_on"] = {}
    for name, network in {"shallow": shallow, "deep": deep}.items():
        learner = Learner(network, run.config.recipe, laboratory.process, determinism)
        called = f"{run.architecture if name == 'shallow' else architecture} trains on"
        taken = take_steps(laboratory, learner, loader, steps, called, lambda _: RATE_PART)
        found["trained_on"][name] = [loss for _, loss in taken]
    return found


def copy_maps(
    laboratory: Laboratory, run: TrainedRun, steps: int
) -> tuple[list[CopyingErrors], int]:
    """Stacks that learned to give back a run's feature maps, each at its better rate, and of how many images these maps are."""
    of = run.identity() | {"steps": steps, "images": COPIED_IMAGES, "stage": COPIED_STAGE}
    of |= {"stacks": STACKS, "starts": STARTS, "rates": RATES, "batch": BATCH, "momentum": MOMENTUM}
    found = laboratory.measured("copying", of, lambda: _copy_maps(laboratory, run, steps))
    copied = [
        best_rate(kind, blocks, found["errors"][kind][str(blocks)])
        for kind in KINDS
        for blocks in STACKS
    ]
    return copied, found["images"]


def _copy_maps(laboratory: Laboratory, run: TrainedRun, steps: int) -> dict[str, Any]:
    images, _ = sample_images(laboratory, run, COPIED_IMAGES)
    maps = dict(
        zip(STAGES, stage_maps(run.trained.network.to(images.device), images), strict=True)
    )[COPIED_STAGE]
    errors: dict[str, dict[str, list[list[list[float]]]]] = {kind: {} for kind in KINDS}
    tried = list(itertools.product(KINDS, STACKS, RATES, STARTS))
    for kind, blocks, rate, seed in counted(laboratory, "learning to copy", tried):
        stack = build_stack(kind, blocks, maps.shape[1], seed)
        by_rate = errors[kind].setdefault(str(blocks), [[] for _ in RATES])
        by_rate[RATES.index(rate)].append(learn_to_copy(laboratory, stack, maps, rate, steps, seed))
    return {"images": len(images), "errors": errors}


def construction_table(
    built: dict[str, list[dict[str, Any]]], depth: int, deeper: int, seeds: Sequence[int]
) -> Table:
    """Both networks' losses and errors, and how far apart their answers lie."""
    columns = [
        *(
            ReportColumn("built network"),
            ReportColumn("from"),
            ReportColumn("seed", "whole"),
            ReportColumn("loss, shallower", "decimals"),
        ),
        *(
            ReportColumn("loss, built", "decimals"),
            ReportColumn("difference of losses", "scientific"),
        ),
        *(ReportColumn("error, shallower", "percent"), ReportColumn("error, built", "percent")),
        *(
            ReportColumn("largest difference of logits", "scientific"),
            ReportColumn("largest logit", "scientific"),
        ),
    ]
    rows = []
    for family, all_found in built.items():
        for seed, found in zip(seeds, all_found, strict=True):
            loss, error = found["loss"], found["error"]
            rows.append(
                (
                    *(
                        f"{family}{deeper}",
                        f"{family}{depth}",
                        seed,
                        loss["shallow"],
                        loss["deep"],
                        loss["deep"] - loss["shallow"],
                    ),
                    *(error["shallow"], error["deep"], found["difference"], found["largest"]),
                )
            )
    return Table(
        "construction",
        "The constructed networks in evaluation mode, on training images",
        columns,
        rows,
    )


def draw_trained_on(
    family: str, all_found: Sequence[dict[str, Any]], depth: int, deeper: int
) -> ReportFigure:
    """The loss of each step, the mean over the seeds."""
    lines = []
    for series, (name, called) in enumerate(
        (("shallow", f"{family}{depth}"), ("deep", f"{family}{deeper}, built from it"))
    ):
        losses = np.mean([found["trained_on"][name] for found in all_found], axis=0)
        lines.append(Line(called, list(range(1, len(losses) + 1)), losses.tolist(), series))
    drawing = draw_lines(
        f"{family} trained on", lines, x="iteration", y="training loss", limits=(0, None)
    )
    caption = f"{family}{depth} and the {family}{deeper} built from it train on, on the same batches: the loss of each"
    return ReportFigure(f"trained-on-{family}", caption, drawn(drawing))


def trained_on_table(
    built: dict[str, list[dict[str, Any]]], depth: int, deeper: int, seeds: Sequence[int]
) -> Table:
    """Every loss, for a file."""
    columns = (
        ReportColumn("network"),
        ReportColumn("seed", "whole"),
        ReportColumn("iteration", "whole"),
        ReportColumn("loss", "decimals"),
    )
    rows = [
        (f"{family}{depth if name == 'shallow' else deeper}", seed, step, loss)
        for family, all_found in built.items()
        for seed, found in zip(seeds, all_found, strict=True)
        for name, losses in found["trained_on"].items()
        for step, loss in enumerate(losses, start=1)
    ]
    return Table("trained-on", "losses of training on", columns, rows)


def draw_copied(copied: Sequence[CopyingErrors]) -> ReportFigure:
    """Errors by step: the mean over the starts."""
    lines = []
    for copying in copied:
        errors = np.exp(np.log(copying.errors).mean(axis=0)).tolist()
        series = STACKS.index(copying.blocks)
        lines.append(
            Line(
                copying.name,
                list(range(1, len(errors) + 1)),
                errors,
                series,
                dashed=copying.kind == "plain",
            )
        )
    drawing = draw_lines(
        "learning the identity", lines, x="iteration", y="error / variance", logarithmic=True
    )
    caption = (
        "Squared error of giving back the input, over its variance, by iteration (geometric means over the starts): plain stacks "
        "dashed, residual ones solid"
    )
    return ReportFigure("copying", caption, drawn(drawing))


def copied_table(copied: Sequence[CopyingErrors]) -> Table:
    """Errors at the end."""
    columns = (
        *(
            ReportColumn("stack"),
            ReportColumn("blocks", "whole"),
            ReportColumn("convolutions", "whole"),
            ReportColumn("better rate", "scientific"),
        ),
        *(
            ReportColumn("error at the start", "scientific"),
            ReportColumn("error at the end", "scientific"),
            ReportColumn("± at the end", "scientific"),
        ),
    )
    rows = [
        (
            *(
                copying.kind,
                copying.blocks,
                2 * copying.blocks,
                copying.rate,
                float(copying.errors[:, 0].mean()),
            ),
            *(copying.final.mean, copying.final.deviation),
        )
        for copying in copied
    ]
    last = min(LAST_STEPS, copied[0].errors.shape[1])
    return Table(
        "copying", f"Error over variance at the first step and over the last {last}", columns, rows
    )


def copied_points(copied: Sequence[CopyingErrors]) -> Table:
    """Every error, for a file."""
    columns = (
        ReportColumn("stack"),
        ReportColumn("blocks", "whole"),
        ReportColumn("start", "whole"),
        ReportColumn("iteration", "whole"),
        ReportColumn("error", "scientific"),
    )
    rows = [
        (copying.kind, copying.blocks, seed, step, error)
        for copying in copied
        for seed, errors in zip(STARTS, copying.errors.tolist(), strict=True)
        for step, error in enumerate(errors, start=1)
    ]
    return Table("copying-points", "errors of learning to copy", columns, rows)
