"""Degradation: the sentences follow the figures, whichever way these point."""

import json
from pathlib import Path

import pytest
from laboratories import group

from training.experiments import degradation
from training.experiments.experiment_report import write_experiment_report
from training.experiments.laboratory import Laboratory


@pytest.mark.parametrize(
    ("plain", "residual", "shown"),
    [
        (((0.1, 0.12), (0.3, 0.34)), ((0.1, 0.1), (0.08, 0.09)), [True, True, True]),
        (((0.1, 0.12), (0.3, 0.34)), ((0.1, 0.1), (0.12, 0.11)), [True, False, True]),
        (((0.3, 0.3), (0.1, 0.1)), ((0.1, 0.1), (0.3, 0.3)), [False, False, False]),
        (((0.1, 0.3), (0.2, 0.2)), ((0.1, 0.3), (0.2, 0.2)), [None, None, False]),
    ],
)
def test_verdicts_follow_the_training_errors(
    tmp_path: Path, plain: tuple, residual: tuple, shown: list[bool | None]
) -> None:
    """As in the paper; a residual network that got a little worse; the other way round; seeds that do not agree."""
    names = ("20", "32")
    networks = [
        [group(tmp_path, kind + name, *errors) for name, errors in zip(names, kinds, strict=True)]
        for kind, kinds in (("plain", plain), ("resnet", residual))
    ]
    assert [verdict.shown for verdict in degradation.verdicts(*networks)] == shown


def test_a_sentence_holds_the_difference_and_its_deviation(tmp_path: Path) -> None:
    """Seed by seed: 20 and 22 points are 21 ± 1.41."""
    plain = [group(tmp_path, "plain20", 0.1, 0.12), group(tmp_path, "plain32", 0.3, 0.34)]
    residual = [group(tmp_path, "resnet20", 0.1, 0.1), group(tmp_path, "resnet32", 0.08, 0.09)]
    first, second, third = (verdict.text for verdict in degradation.verdicts(plain, residual))
    assert "plain32's training error is 21.00 ± 1.41 points above plain20's, over 2 seeds" in first
    assert "resnet32's training error is 1.50 ± 0.71 points below resnet20's" in second
    assert "costs a plain network 22.50 ± 0.71 points more training error" in third


def test_an_experiment_on_the_digits_ends_in_its_files(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    """Two depths of both kinds are trained and reported; the digits have no figures of the paper beside them."""
    report = degradation.perform(laboratory, [20, 32], [0])
    page = write_experiment_report(report, tmp_path)
    assert {path.name for path in (page.parent / "figures").iterdir()} == {
        "plain-curves.svg",
        "resnet-curves.svg",
    }
    rows = (page.parent / "tables" / "errors.csv").read_text().splitlines()
    assert rows[0] == "network,weights,seeds,training error,± training,test error,± test"
    assert [row.split(",")[:3] for row in rows[1:]] == [
        ["plain20", "269722", "1"],
        ["plain32", "464154", "1"],
        ["resnet20", "269722", "1"],
        ["resnet32", "464154", "1"],
    ]
    ended = json.loads(
        (laboratory.directory("plain32", 0).path / "metrics.jsonl").read_text().splitlines()[-1]
    )
    assert float(rows[2].split(",")[3]) == pytest.approx(1 - ended["train_top1"])
    assert (
        report.commands[0]
        == "python -m training experiment degradation --data digits --set iterations=12 --depths 20,32 --seeds 0"
    )
