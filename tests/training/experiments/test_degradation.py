"""The experiment `degradation` and the errors that it shares with `shortcuts`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from laboratories import group
from stated import stated

from training.errors import RunError
from training.experiments import degradation
from training.experiments.degradation_verdicts import verdicts
from training.experiments.error_figures import describe_convergence, error_table, highest_error
from training.experiments.error_measurements import SeedGroup
from training.experiments.experiment_report import write_experiment_report
from training.experiments.laboratory import Laboratory
from training.experiments.training_curve import CurvePoint, write_curve


@pytest.mark.parametrize(
    ("plain", "residual", "shown"),
    [
        (((0.1, 0.12), (0.3, 0.34)), ((0.1, 0.1), (0.08, 0.09)), [True, True, True]),
        (((0.1, 0.12), (0.3, 0.34)), ((0.1, 0.1), (0.12, 0.11)), [True, False, True]),
        (((0.3, 0.3), (0.1, 0.1)), ((0.1, 0.1), (0.3, 0.3)), [False, False, False]),
        (((0.1, 0.3), (0.2, 0.2)), ((0.1, 0.3), (0.2, 0.2)), [None, None, None]),
        (((0.9, 0.9), (0.9, 0.9)), ((0.9, 0.9), (0.9, 0.9)), [None, None, None]),
    ],
    ids=["as in the paper", "residual network is worse", "opposite", "seeds disagree", "chance"],
)
def test_verdicts_follow_the_training_errors(
    tmp_path: Path, plain: tuple, residual: tuple, shown: list[bool | None]
) -> None:
    networks = [
        [
            group(tmp_path, f"{family}{depth}", *errors)
            for depth, errors in zip((20, 32), by_depth, strict=True)
        ]
        for family, by_depth in (("plain", plain), ("resnet", residual))
    ]
    results = verdicts(*networks)
    assert [verdict.shown for verdict in results] == shown
    # a third sentence follows only if the plain network degrades
    assert results[0].text.count(". ") == (2 if shown[0] else 1)


def test_sentences_state_the_difference_and_its_deviation(tmp_path: Path) -> None:
    """Differences are taken per seed: 20 and 22 points are 21 ± 1.41 points."""
    plain = [group(tmp_path, "plain20", 0.1, 0.12), group(tmp_path, "plain32", 0.3, 0.34)]
    residual = [group(tmp_path, "resnet20", 0.1, 0.1), group(tmp_path, "resnet32", 0.08, 0.09)]
    first, second, third = (verdict.text for verdict in verdicts(plain, residual))
    assert stated(first) == "plain32 21.00 1.41 plain20 2 21.00 1.41"
    assert stated(second) == "resnet32 1.50 0.71 resnet20"
    assert stated(third) == "20 32 22.50 0.71"
    assert ("above" in first, "below" in second, "more" in third) == (True, True, True)


def with_curve(single: SeedGroup, *errors: float) -> SeedGroup:
    """The group with a training curve of these errors and a learning rate."""
    for run in single.runs:
        points = [CurvePoint(n, 100, round(100 * error)) for n, error in enumerate(errors, start=1)]
        write_curve(run.directory, points)
    runs = [
        replace(run, history=[{**run.history[-1], "learning_rate": 0.1}]) for run in single.runs
    ]
    return SeedGroup(runs)


def test_convergence_compares_the_last_two_tenths_of_the_curve(tmp_path: Path) -> None:
    """Twenty points: 18 and 19 of the curve are two tenths of two points each."""
    falling = with_curve(group(tmp_path, "plain20", 0.1), *[0.9] * 16, 0.5, 0.4, 0.3, 0.2)
    still = with_curve(group(tmp_path, "resnet20", 0.1), *[0.5] * 20)
    assert falling.final_decrease == pytest.approx(0.2)
    assert still.final_decrease == 0
    assert with_curve(group(tmp_path, "plain32", 0.1), 0.5).final_decrease == 0
    sentence = describe_convergence([still, falling])
    assert "20.0 points" in sentence
    assert "plain20" in sentence


def test_curves_with_different_points_are_rejected(tmp_path: Path) -> None:
    network = group(tmp_path, "plain20", 0.1, 0.2)
    write_curve(network.runs[1].directory, [CurvePoint(3, 100, 10)])
    with pytest.raises(RunError, match="plain20"):
        network.curve("training")


def test_an_axis_holds_training_and_test_errors(tmp_path: Path) -> None:
    """Curves start at an error of 0.9."""
    assert highest_error([group(tmp_path, "plain20", 0.1)]) == pytest.approx(1.05 * 0.9)
    assert highest_error([group(tmp_path, "plain32", 0.98)]) == pytest.approx(1.05 * 0.99)


@pytest.mark.slow
def test_errors_of_the_paper_stand_beside_ours_on_request(laboratory: Laboratory) -> None:
    networks = [SeedGroup([laboratory.train(name, 0)]) for name in ("plain20", "resnet20")]
    assert [row[-1] for row in error_table("errors", networks, with_paper=True).rows] == [
        None,
        0.0875,
    ]
    assert len(error_table("errors", networks, with_paper=False).columns) == 7


@pytest.mark.slow
def test_the_experiment_writes_its_report(laboratory: Laboratory, tmp_path: Path) -> None:
    report = degradation.run_experiment(laboratory, [20, 32], [0])
    page = write_experiment_report(report, tmp_path)
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    assert figures == {"plain-curves.svg", "resnet-curves.svg"}
    rows = (page.parent / "tables" / "errors.csv").read_text().splitlines()
    assert rows[0] == "network,weights,seeds,training error,± training,test error,± test"
    assert [row.split(",")[:3] for row in rows[1:]] == [
        ["plain20", "269722", "1"],
        ["plain32", "464154", "1"],
        ["resnet20", "269722", "1"],
        ["resnet32", "464154", "1"],
    ]
    metrics = (laboratory.directory("plain32", 0).path / "metrics.jsonl").read_text().splitlines()
    last = json.loads(metrics[-1])
    assert float(rows[2].split(",")[3]) == pytest.approx(1 - last["train_top1"])
    assert float(rows[2].split(",")[5]) == pytest.approx(1 - last["test_top1"])
    assert report.commands[0] == (
        "python -m training experiment degradation --data digits --set iterations=12 "
        "--depths 20,32 --seeds 0"
    )
