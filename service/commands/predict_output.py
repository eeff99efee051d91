"""What `resident predict` prints: results as table, JSON or CSV, and the figures of a version."""

import csv
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

import click

from service.commands.classifiers import PredictedImage

MAX_CONFUSIONS: Final = 10
MAX_CLASSES: Final = 50


def print_results(
    rows: Iterable[PredictedImage], style: str, labels: Mapping[str, str] | None = None
) -> None:
    """Print each result; JSON and CSV as soon as it is there. `labels` adds the correct ones."""
    if style == "json":
        for row in rows:
            outcome = {"error": row.error} if row.error else row.result
            click.echo(json.dumps({"path": row.path, **outcome}, ensure_ascii=False))
    elif style == "csv":
        _print_csv(rows, labels)
    else:
        collected = list(rows)
        width = max(len(row.path) for row in collected)
        for row in collected:
            click.echo(f"{row.path.ljust(width)}  {_describe(row)}")


def _print_csv(rows: Iterable[PredictedImage], labels: Mapping[str, str] | None) -> None:
    """With `labels`, one line per image says which version answered and what is correct."""
    more = [] if labels is None else ["version", "correct_label"]
    writer = csv.writer(sys.stdout)
    writer.writerow(["path", *more, "label", "score", "abstained", "error"])
    for row in rows:
        values = [] if labels is None else [row.version, labels[row.path]]
        for prediction in row.result.get("predictions", [{}])[: None if labels is None else 1]:
            writer.writerow(
                [
                    row.path,
                    *values,
                    prediction.get("label", ""),
                    prediction.get("score", ""),
                    row.result.get("abstained", ""),
                    row.error or "",
                ]
            )


def _describe(row: PredictedImage) -> str:
    if row.error:
        return f"error: {row.error}"
    labels = ", ".join(
        f"{prediction['label']} {prediction['score']:.1%}"
        for prediction in row.result["predictions"]
    )
    return (
        f"{labels}  (abstained: unlike the training data)"
        if row.result.get("abstained")
        else labels
    )


def print_figures(figures: Mapping[str, Any]) -> None:
    """Print the figures of one version as text."""
    failed = figures["failed"]
    click.echo(f"{', '.join(figures['versions']) or 'no version'}: {figures['images']} images")
    for entry in failed[:MAX_CONFUSIONS]:
        click.echo(f"  failed: {entry['path']}: {entry['error']}")
    if len(failed) > MAX_CONFUSIONS:
        click.echo(f"  failed: {len(failed) - MAX_CONFUSIONS} more")
    if "top1" not in figures:
        return
    low, high = figures["top1_interval"]
    click.echo(
        f"  top-1              {figures['top1']:7.2%}  (95 % interval {low:.2%} to {high:.2%})"
    )
    click.echo(f"  top-5              {figures['top5']:7.2%}")
    click.echo(
        f"  calibration error  {figures['calibration_error']:7.2%}  "
        f"(mean score {figures['mean_score']:.2%})"
    )
    if "abstained" in figures:
        answered = figures["top1_of_answered"]
        others = "" if answered is None else f"  (top-1 of the others {answered:.2%})"
        click.echo(f"  abstained          {figures['abstained']:7.2%}{others}")
    _print_table(
        ("class", "images", "recall", "precision"),
        [
            (
                entry["label"],
                str(entry["images"]),
                f"{entry['recall']:.2%}",
                "" if entry["precision"] is None else f"{entry['precision']:.2%}",
            )
            for entry in figures["classes"][:MAX_CLASSES]
        ],
        text_columns=1,
    )
    if len(figures["classes"]) > MAX_CLASSES:
        click.echo(f"  {len(figures['classes']) - MAX_CLASSES} more classes: see --format json")
    if figures["confusion"]:
        _print_table(
            ("label", "predicted", "images"),
            [
                (entry["label"], entry["predicted"], str(entry["images"]))
                for entry in figures["confusion"][:MAX_CONFUSIONS]
            ],
            text_columns=2,
        )


def print_comparison(comparison: Mapping[str, Any], first: str, second: str) -> None:
    """Print how two versions differ on the same images."""
    click.echo(f"\n{first} and {second} on the same {comparison['images']} images")
    lines = {
        f"only {first} correct": comparison["only_first_correct"],
        f"only {second} correct": comparison["only_second_correct"],
        "different labels": comparison["changed_labels"],
        "p (McNemar, two-sided)": f"{comparison['p_value']:.3g}",
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        click.echo(f"  {name.ljust(width)}  {value}")


def _print_table(header: tuple[str, ...], rows: list[tuple[str, ...]], text_columns: int) -> None:
    """Print an indented table; columns after the first `text_columns` are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    click.echo()
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo(f"  {'  '.join(cells).rstrip()}")
