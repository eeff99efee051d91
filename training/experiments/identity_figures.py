"""Figures and tables of the experiment `identity`."""

from collections.abc import Mapping, Sequence

import numpy as np

from training.experiments.experiment_report import (
    CellValue,
    ReportColumn,
    ReportFigure,
    ReportTable,
    draw_line_figure,
)
from training.experiments.identity_measurements import (
    STACK_LENGTHS,
    STACK_SEEDS,
    ConstructedPair,
)
from training.experiments.identity_stacks import FINAL_STEPS, CopyingErrors
from training.reports.figures import Line


def construction_table(
    built: Mapping[str, Sequence[ConstructedPair]], depth: int, deeper: int, seeds: Sequence[int]
) -> ReportTable:
    """Losses and errors of the trained and the constructed network, and their logit difference."""
    columns = (
        ReportColumn("built network"),
        ReportColumn("from"),
        ReportColumn("seed", "whole"),
        ReportColumn("loss, shallower", "decimals"),
        ReportColumn("loss, built", "decimals"),
        ReportColumn("difference of losses", "scientific"),
        ReportColumn("error, shallower", "percent"),
        ReportColumn("error, built", "percent"),
        ReportColumn("largest difference of logits", "scientific"),
        ReportColumn("largest logit", "scientific"),
    )
    rows = []
    for family, pairs in built.items():
        for seed, pair in zip(seeds, pairs, strict=True):
            shallow, deep = (pair.loss[name] for name in ("shallow", "deep"))
            row: list[CellValue] = [f"{family}{deeper}", f"{family}{depth}", seed]
            row += [shallow, deep, deep - shallow, pair.error["shallow"], pair.error["deep"]]
            rows.append([*row, pair.difference, pair.largest])
    caption = "The constructed networks in evaluation mode, on training images"
    return ReportTable("construction", caption, columns, rows)


def draw_further_training(
    family: str, pairs: Sequence[ConstructedPair], depth: int, deeper: int
) -> ReportFigure:
    """Loss by step, averaged over the seeds."""
    names = {"shallow": f"{family}{depth}", "deep": f"{family}{deeper}, built from it"}
    lines = []
    for series, (name, label) in enumerate(names.items()):
        losses = np.mean([pair.trained_on[name] for pair in pairs], axis=0)
        lines.append(Line(label, range(1, len(losses) + 1), losses.tolist(), series))
    return draw_line_figure(
        f"trained-on-{family}",
        f"Further training of {family}{depth} and of the {family}{deeper} built from it, on the "
        "same batches",
        lines,
        title=f"{family} trained on",
        x="iteration",
        y="training loss",
        limits=(0, None),
    )


def further_training_table(
    built: Mapping[str, Sequence[ConstructedPair]], depth: int, deeper: int, seeds: Sequence[int]
) -> ReportTable:
    """Every loss, for a CSV file."""
    columns = (
        ReportColumn("network"),
        ReportColumn("seed", "whole"),
        ReportColumn("iteration", "whole"),
        ReportColumn("loss", "decimals"),
    )
    rows = [
        (f"{family}{depth if name == 'shallow' else deeper}", seed, step, loss)
        for family, pairs in built.items()
        for seed, pair in zip(seeds, pairs, strict=True)
        for name, losses in pair.trained_on.items()
        for step, loss in enumerate(losses, start=1)
    ]
    return ReportTable("trained-on", "losses of further training", columns, rows)


def draw_copying(copied: Sequence[CopyingErrors]) -> ReportFigure:
    """Error by step: the geometric mean over the starts."""
    lines = []
    for stacks in copied:
        errors = np.exp(np.log(stacks.errors).mean(axis=0)).tolist()
        series, dashed = STACK_LENGTHS.index(stacks.blocks), stacks.kind == "plain"
        x = range(1, len(errors) + 1)
        lines.append(Line(stacks.name, x, errors, series, dashed=dashed))
    return draw_line_figure(
        "copying",
        "Squared error of returning the input, over its variance, by iteration (geometric means "
        "over the starts); plain stacks dashed, residual stacks solid",
        lines,
        title="learning the identity",
        x="iteration",
        y="error / variance",
        logarithmic=True,
    )


def copying_table(copied: Sequence[CopyingErrors]) -> ReportTable:
    """Errors at the first step and at the end."""
    columns = (
        ReportColumn("stack"),
        ReportColumn("blocks", "whole"),
        ReportColumn("convolutions", "whole"),
        ReportColumn("better rate", "scientific"),
        ReportColumn("error at the start", "scientific"),
        ReportColumn("error at the end", "scientific"),
        ReportColumn("± at the end", "scientific"),
    )
    rows: list[list[CellValue]] = [
        [
            *(stacks.kind, stacks.blocks, 2 * stacks.blocks, stacks.rate),
            *(float(stacks.errors[:, 0].mean()), stacks.final.mean, stacks.final.deviation),
        ]
        for stacks in copied
    ]
    last = min(FINAL_STEPS, copied[0].errors.shape[1])
    caption = f"Error over variance at the first step and over the last {last}"
    return ReportTable("copying", caption, columns, rows)


def copying_points_table(copied: Sequence[CopyingErrors]) -> ReportTable:
    """Every error, for a CSV file."""
    columns = (
        ReportColumn("stack"),
        ReportColumn("blocks", "whole"),
        ReportColumn("start", "whole"),
        ReportColumn("iteration", "whole"),
        ReportColumn("error", "scientific"),
    )
    rows = [
        (stacks.kind, stacks.blocks, seed, step, error)
        for stacks in copied
        for seed, errors in zip(STACK_SEEDS, stacks.errors.tolist(), strict=True)
        for step, error in enumerate(errors, start=1)
    ]
    return ReportTable("copying-points", "errors of learning to copy", columns, rows)
