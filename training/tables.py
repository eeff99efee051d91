"""Tables that commands print."""

from collections.abc import Sequence
from typing import Final

from rich.table import Column, Table
from rich.text import Text

from model_store.manifest import Check
from training.gates.vs_previous_version import ClassComparison, PreviousComparison
from training.learning.rate_finder import RateCurve
from training.quantization.sensitivity import Sensitivity
from training.steps.calibrate import RunCalibration
from training.steps.cross_validation import CrossValidation

MAX_LAYERS: Final = 24
MAX_RATES: Final = 24
BAR_WIDTH: Final = 40


def checks_table(checks: tuple[Check, ...]) -> Table:
    table = Table(
        *(Column(name, no_wrap=True) for name in ("check", "expected", "measured")),
        "verdict",
        title="gates",
    )
    for check in checks:
        if check.waived:
            verdict = Text(f"waived: {check.waived}", "yellow")
        elif check.passed:
            verdict = Text("passed", "green")
        else:
            verdict = Text(f"FAILED: {check.detail}", "bold red")
        bound = f"{'≥' if check.comparison == 'at_least' else '≤'} {check.threshold:.4g}"
        table.add_row(check.check, bound, f"{check.value:.4g}", verdict)
    return table


def calibration_table(calibrated: RunCalibration) -> Table:
    splits = {"validation": calibrated.validation, "test": calibrated.test}
    measured = [figures for figures in splits.values() if figures]
    title = "calibration"
    if calibrated.calibration:
        title += f", temperature {calibrated.calibration.temperature:.3f}"
    table = Table("", *splits, title=title)
    table.add_row("images", *(f"{figures.images:,}" for figures in measured))
    errors = (f"{figures.ece_before:.2%} → {figures.ece_after:.2%}" for figures in measured)
    table.add_row("calibration error", *errors)
    abstained = (
        "never" if figures.abstained is None else f"{figures.abstained:.2%}" for figures in measured
    )
    table.add_row("abstained", *abstained)
    for coverage in measured[-1].sets:
        sets = [figures.sets[coverage] for figures in measured]
        cells = (f"{each.coverage:.2%} ({each.mean_size:.2f} labels)" for each in sets)
        table.add_row(f"sets for {coverage}", *cells)
    return table


def sensitivity_table(sensitivities: Sequence[Sensitivity], kept: Sequence[str]) -> Table:
    """Return the layers that change the logits most if only they are quantized."""
    table = Table(
        "layer",
        Column("change", justify="right"),
        "",
        title="sensitivity to INT8",
        caption="RMS change of the logits, in standard deviations of the fp32 logits",
    )
    shown = sensitivities
    if len(sensitivities) > MAX_LAYERS:
        shown = sensitivities[: max(MAX_LAYERS, len(kept))]
    for line in shown:
        note = Text("stays in fp32", "yellow") if line.layer in kept else ""
        table.add_row(Text(line.layer), f"{line.drift:.4f}", note)
    if hidden := len(sensitivities) - len(shown):
        table.add_row(f"and {hidden} more", f"≤ {shown[-1].drift:.4f}")
    return table


def cross_validation_table(result: CrossValidation) -> Table:
    table = Table("fold", "test accuracy", title="cross-validation")
    for number, accuracy in enumerate(result.folds, start=1):
        table.add_row(str(number), f"{accuracy:.2%}")
    low, high = result.interval
    table.add_row("mean", f"{result.mean:.2%}")
    interval = f"95 % Wilson interval {low:.2%} to {high:.2%}"
    table.add_row("all images", f"{result.correct} of {result.images}; {interval}")
    return table


def rate_table(curve: RateCurve) -> Table:
    table = Table("learning rate", "loss", "", title="learning-rate finder")
    highest = max(curve.losses)
    for row in range(0, len(curve.rates), max(1, len(curve.rates) // MAX_RATES)):
        bar = "█" * round(BAR_WIDTH * curve.losses[row] / highest)
        table.add_row(f"{curve.rates[row]:.2g}", f"{curve.losses[row]:.3f}", bar)
    return table


def previous_comparison_table(comparison: PreviousComparison) -> Table:
    """Return the accuracy of both models by class.

    If there are new classes, an extra column counts the correct answers of the new model when it
    chooses among the old classes only.
    """
    grown = comparison.has_new_classes
    among = " among the old classes" if grown else ""
    names = ("test images", "previous", "new", *(["new, old classes only"] if grown else []))
    table = Table(
        "class",
        *(Column(name, justify="right") for name in (*names, "change")),
        title="new model against the previous version",
        caption=f"{comparison.gained} images gained, {comparison.lost} lost{among}; "
        f"p = {comparison.p_worse:.3g} if the new model is no worse",
    )
    for line in comparison.classes:
        if line.images:
            table.add_row(*_class_row(line, grown=grown))
    return table


def _class_row(line: ClassComparison, *, grown: bool) -> list[str | Text]:
    new = f"{line.new_right / line.images:.1%}"
    if line.old_right is None or line.like_old is None:
        return [Text(line.name), str(line.images), "new class", new]
    change = (line.like_old - line.old_right) / line.images
    style = "green" if change > 0 else "red" if change < 0 else ""
    like_old = [f"{line.like_old / line.images:.1%}"] if grown else []
    old = f"{line.old_right / line.images:.1%}"
    return [Text(line.name), str(line.images), old, new, *like_old, Text(f"{change:+.1%}", style)]
