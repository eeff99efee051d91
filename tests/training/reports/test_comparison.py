"""Comparison of runs, significance of their difference, and the list of runs."""

import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from html_page import ADDRESSES, Page
from rich.console import Console
from rich.table import Table

from training.__main__ import main
from training.errors import RunError
from training.reports.comparison import (
    ComparedRun,
    McNemarTest,
    comparison_table,
    config_differences,
    mcnemar_tests,
    read_compared,
    untested_pairs,
    write_comparison,
)
from training.reports.history import read_history
from training.reports.run_list import list_runs, runs_table, summarize_run
from training.run.data import open_run_data
from training.run.directory import Run
from training.steps.evaluate import read_figures, read_labels

CLASSES = 10


def changed(run: Run, place: Path, name: str, **values: object) -> Run:
    """A copy of the run under another name, with other values in its config."""
    place.mkdir(exist_ok=True)
    copy = Run.open(Path(shutil.copytree(run.path, place / name)))
    copy.write_json("config.json", {**run.read_json("config.json", "run"), **values})
    return Run.open(copy.path)


def set_mistakes(run: Run, wrong: Sequence[int]) -> None:
    """Change the evaluation of a run so that only these test images are misclassified."""
    labels = read_labels(run)
    predicted = labels.copy()
    predicted[list(wrong)] = (predicted[list(wrong)] + 1) % CLASSES
    with open(run.path / "evaluation.npz", "wb") as file:
        np.savez(file, logits=np.eye(CLASSES, dtype=np.float32)[predicted], labels=labels)
    top1 = float((predicted == labels).mean())
    run.write_json(
        "evaluation.json",
        {**read_figures(run), "top1": top1, "top1_interval": [top1 - 0.01, top1 + 0.01]},
    )


def compared(*runs: Run) -> list[ComparedRun]:
    return [
        ComparedRun(
            run.run_id,
            run,
            run.config,
            read_history(run),
            read_figures(run) if run.has("evaluation.json") else None,
            series,
        )
        for series, run in enumerate(runs)
    ]


def as_text(table: Table) -> str:
    """The table as printed on a wide terminal."""
    console = Console(file=io.StringIO(), width=300)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def binomial_p(successes: int, trials: int) -> float:
    """Two-sided exact p-value at 1/2: the sum over all outcomes that are not more likely."""
    ways = [math.comb(trials, k) for k in range(trials + 1)]
    return sum(way for way in ways if way <= ways[successes]) / 2**trials


@pytest.mark.parametrize(
    ("first", "second"), [(10, 2), (2, 10), (5, 0), (1, 0), (7, 7), (30, 45), (0, 0)]
)
def test_p_is_that_of_the_exact_binomial_test(first: int, second: int) -> None:
    """The order of the runs does not matter."""
    assert McNemarTest("a", "b", first, second).p == pytest.approx(
        binomial_p(first, first + second)
    )
    assert McNemarTest("a", "b", first, second).p == McNemarTest("b", "a", second, first).p


def test_known_values_of_p() -> None:
    """10 to 2 is 158 of 4096, 5 to 0 is 2 of 32."""
    assert McNemarTest("a", "b", 10, 2).p == pytest.approx(158 / 4096)
    assert McNemarTest("a", "b", 5, 0).p == pytest.approx(2 / 32)
    assert McNemarTest("a", "b", 0, 0).p == 1.0


def test_a_test_counts_images_that_only_one_run_classifies_correctly(
    finished_run: Run, tmp_path: Path
) -> None:
    first, second = (changed(finished_run, tmp_path, name) for name in ("first", "second"))
    set_mistakes(first, wrong=[0, 1, 2, 3, 4])
    set_mistakes(second, wrong=[3, 4, *range(100, 110)])
    (test,) = mcnemar_tests(compared(first, second))
    assert test == McNemarTest("first", "second", only_first=10, only_second=3)
    assert mcnemar_tests(compared(second, first)) == [
        McNemarTest("second", "first", only_first=3, only_second=10)
    ]


def test_each_pair_of_evaluated_runs_is_tested(finished_run: Run, tmp_path: Path) -> None:
    runs = [changed(finished_run, tmp_path, name) for name in ("a", "b", "c", "unknown")]
    set_mistakes(runs[2], wrong=range(50))
    (runs[3].path / "evaluation.json").unlink()
    tests = mcnemar_tests(compared(*runs))
    assert [(test.first, test.second) for test in tests] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert (tests[0].only_first, tests[0].only_second, tests[0].p) == (0, 0, 1.0)
    assert tests[1].p < 0.001


def test_runs_with_different_test_images_are_not_tested(finished_run: Run, tmp_path: Path) -> None:
    """The data or the split differs."""
    here, other_data, other_split = (
        changed(finished_run, tmp_path, name) for name in ("here", "data", "split")
    )
    checked = other_data.read_json("check.json", "run")
    other_data.write_json("check.json", {**checked, "data_digest": "0" * 64})
    lines = (other_split.path / "split.csv").read_text().splitlines(keepends=True)
    test, train = (
        next(i for i, line in enumerate(lines) if f",{part}," in line) for part in ("test", "train")
    )
    lines[test], lines[train] = (
        lines[test].replace(",test,", ",train,"),
        lines[train].replace(",train,", ",test,"),
    )
    other_split.write("split.csv", "".join(lines).encode())
    assert mcnemar_tests(compared(here, other_data)) == []
    assert mcnemar_tests(compared(here, other_split)) == []
    assert len(mcnemar_tests(compared(here, changed(finished_run, tmp_path, "same")))) == 1


def test_only_differing_values_are_listed(finished_run: Run, tmp_path: Path) -> None:
    recipe = finished_run.config.recipe.model_dump(mode="json")
    other = {
        **recipe,
        "optimizer": {**recipe["optimizer"], "learning_rate": 0.05},
        "batch_size": 32,
    }
    values = {
        "recipe": other,
        "seed": 7,
        "start": "weights.safetensors",
        "model": "another",
        "packages": {"torch": "0"},
    }
    first, second = (
        changed(finished_run, tmp_path, "a"),
        changed(finished_run, tmp_path, "b", **values, changes=["seed=7"]),
    )
    assert config_differences(compared(first, second)) == {
        "recipe.optimizer.learning_rate": [
            json.dumps(recipe["optimizer"]["learning_rate"]),
            "0.05",
        ],
        "recipe.batch_size": [str(recipe["batch_size"]), "32"],
        "seed": ["0", "7"],
        "start": ["", "weights.safetensors"],
    }
    assert config_differences(compared(first, first)) == {}
    assert config_differences(compared(first)) == {}


def test_the_page_is_self_contained_and_escapes_names(finished_run: Run, tmp_path: Path) -> None:
    first, second = (
        changed(finished_run, tmp_path, "first"),
        changed(finished_run, tmp_path, '<script>&"', seed=5),
    )
    set_mistakes(first, wrong=range(10))
    set_mistakes(second, wrong=range(8, 10))
    written = write_comparison(
        read_compared([first, second]), tmp_path / "new" / "folder" / "page.html"
    )
    assert written == tmp_path / "new" / "folder" / "page.html"
    source = written.read_text(encoding="utf-8")
    page = Page(source.encode())
    tags, ids = {tag for tag, _ in page.elements}, page.attributes("id")
    addresses = [address for name in ADDRESSES for address in page.attributes(name)]
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "img"}
    assert all(address.startswith("#") for address in addresses)
    assert all(place.startswith("#") for place in re.findall(r"url\(['\"]?([^)]*)", source))
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in addresses} <= set(ids)
    assert [tag for tag, _ in page.elements].count("svg") == 9
    rows = re.findall(r"<tr>(.*?)</tr>", source)
    cells = [
        [re.sub(r"<[^>]*>", "", cell) for cell in re.split(r"</t[hd]>", row)[:-1]] for row in rows
    ]
    escaped = "&lt;script&gt;&amp;&#34;"
    assert cells[1][0] == "first"
    assert cells[2][0] == escaped
    assert cells[2][4] == f"{1 - 2 / len(read_labels(second)):.2%}"
    assert ["seed", "0", "5"] in cells
    assert ["first", escaped, "0", "8", f"{2 / 2**8:.3g}"] in cells
    assert (
        write_comparison(read_compared([first, second]), tmp_path / "again.html").read_bytes()
        == written.read_bytes()
    )


def test_a_page_of_one_run_has_no_test_and_many_runs_have_dashed_lines(
    finished_run: Run, tmp_path: Path
) -> None:
    alone = write_comparison(read_compared([finished_run]), tmp_path / "alone.html").read_text(
        encoding="utf-8"
    )
    assert '<th scope="row">seed</th>' not in alone
    assert "p is the probability" not in alone
    many = write_comparison(read_compared([finished_run] * 9), tmp_path / "many.html").read_text(
        encoding="utf-8"
    )
    assert many.count('class="swatch dashed"') == 1
    assert "stroke-dasharray" in many


def test_runs_in_training_can_be_compared(finished_run: Run, tmp_path: Path) -> None:
    tested, untested = (changed(finished_run, tmp_path, name) for name in ("tested", "untested"))
    (untested.path / "evaluation.json").unlink()
    assert "not evaluated" in write_comparison(
        read_compared([tested, untested]), tmp_path / "page.html"
    ).read_text(encoding="utf-8")
    table = as_text(comparison_table(read_compared([tested, untested])))
    assert "not evaluated" in table
    assert "McNemar" not in table
    (reason,) = untested_pairs(read_compared([tested, untested]))
    assert f"python -m training evaluate {untested.path}" in reason


def test_each_pair_without_a_test_gets_the_reason(finished_run: Run, tmp_path: Path) -> None:
    """On the page, too."""
    runs = [changed(finished_run, tmp_path, name) for name in ("first", "second", "third")]
    checked = runs[2].read_json("check.json", "resume")
    runs[2].write_json("check.json", {**checked, "data_digest": "f" * 64})
    compared = read_compared(runs)
    reasons = untested_pairs(compared)
    assert [("first" in reason, "second" in reason) for reason in reasons] == [
        (True, False),
        (False, True),
    ]
    assert all("third" in reason for reason in reasons)
    page = write_comparison(compared, tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(reason[1:] in page for reason in reasons)
    assert untested_pairs(compared[:2]) == []
    assert len(untested_pairs(compared[:1])) == 1


def test_a_run_without_an_epoch_cannot_be_compared(
    finished_run: Run, new_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = new_run()
    for action in (
        lambda: write_comparison(read_compared([finished_run, run]), tmp_path / "page.html"),
        lambda: comparison_table(read_compared([run])),
    ):
        with pytest.raises(RunError, match=rf"{run.run_id} has no metrics\.jsonl"):
            action()
    with pytest.raises(RunError, match="at least one run"):
        write_comparison(read_compared([]), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_table_states_each_test_from_the_view_of_each_run(
    finished_run: Run, tmp_path: Path
) -> None:
    """Brackets in a name are not markup."""
    first, second = (
        changed(finished_run, tmp_path, "[red]first"),
        changed(finished_run, tmp_path, "second", seed=5),
    )
    set_mistakes(first, wrong=range(10))
    set_mistakes(second, wrong=range(9, 11))
    table = as_text(comparison_table(read_compared([first, second])))
    assert "[red]first" in table
    best = read_history(first).best["validation_top1"]
    rows = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:4]]
        for line in table.splitlines()
        if "│" in line
    }
    assert rows["best validation accuracy"] == [f"{best:.2%}"] * 2
    assert rows["seed"] == ["0", "5"]
    p = f"{binomial_p(1, 10):.3g}"
    assert rows["McNemar"] == [
        f"only this run correct: 1; only second correct: 9; p = {p}",
        f"only this run correct: 9; only [red]first correct: 1; p = {p}",
    ]


def listed(runs: Path) -> dict[str, str]:
    """State of each run, in the order of the list."""
    table = runs_table([summarize_run(path) for path in list_runs(runs)])
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    return dict(zip(columns["run"], columns["state"], strict=True))


def test_the_list_states_how_far_each_run_is(
    finished_run: Run, new_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = new_run()
    states = []

    def record() -> None:
        states.append(listed(tmp_path / "runs")[run.run_id])

    record()
    open_run_data(run)
    record()
    for name in ("metrics.jsonl", "last.safetensors", "evaluation.json"):
        content = (finished_run.path / name).read_bytes()
        run.write(
            name, content.splitlines(keepends=True)[0] if name == "metrics.jsonl" else content
        )
        record()
    run.write("gates.json", b"{}")
    record()
    run.write("published.json", b'{"version": 12}')
    record()
    assert states == [
        "created",
        "checked",
        "training, epoch 1 of 2",
        "trained",
        "evaluated",
        "gated",
        "published, version 12",
    ]
    text = as_text(runs_table([summarize_run(path) for path in list_runs(tmp_path / "runs")]))
    for part in (run.run_id, "digits-resnet20", "resnet20", f"{read_figures(run)['top1']:.2%}"):
        assert part in text
    assert f"{read_history(run).best['validation_top1']:.2%}" in text


def test_the_list_as_json_has_the_figures_of_each_run(finished_run: Run, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    sound = changed(finished_run, runs, "sound")
    changed(finished_run, runs, "broken").write("metrics.jsonl", b"{}\n")
    result = CliRunner().invoke(main, ["runs", "--runs", str(runs), "--json"])
    assert result.exit_code == 0, result.output
    rows = {row["run"]: row for row in json.loads(result.stdout)}
    assert rows["sound"]["test_top1"] == read_figures(sound)["top1"]
    assert rows["sound"]["validation_top1"] == read_history(sound).best["validation_top1"]
    assert rows["sound"]["error"] is None
    assert rows["broken"]["state"] == "damaged"
    assert "metrics.jsonl" in rows["broken"]["error"]


def test_the_newest_run_is_first(finished_run: Run, tmp_path: Path) -> None:
    for age, name in enumerate(("b", "c", "a")):
        run = changed(finished_run, tmp_path / "runs", name)
        os.utime(run.path / "config.json", (1_000_000 - age, 1_000_000 - age))
    assert list(listed(tmp_path / "runs")) == ["b", "c", "a"]


DAMAGES: dict[str, tuple[str, bytes]] = {
    "no config": ("config.json", b"{"),
    "a config of another time": ("config.json", b'{"model": "old"}'),
    "half a line": ("metrics.jsonl", b'{"epoch": 1, "st'),
    "a line without figures": ("metrics.jsonl", b"{}\n"),
    "bytes that are no text": ("metrics.jsonl", b"\xff\xfe"),
    "an evaluation without figures": ("evaluation.json", b"[]"),
    "half an evaluation": ("evaluation.json", b'{"top1": 0.'),
    "half a note of where it went": ("published.json", b'{"version"'),
    "a note without its number": ("published.json", b"{}"),
    "a note that is a list": ("published.json", b"[]"),
    "a split without its column": ("split.csv", b"image\n1\n"),
}


def test_damaged_runs_do_not_break_the_list(finished_run: Run, tmp_path: Path) -> None:
    """The list names the damaged file. Other folders and files are not listed."""
    runs = tmp_path / "runs"
    for name, (file, content) in DAMAGES.items():
        changed(finished_run, runs, name).write(file, content)
    changed(finished_run, runs, "sound")
    (runs / "no run").mkdir()
    (runs / "notes.txt").write_text("mine")
    states = listed(runs)
    assert set(states) == {*DAMAGES, "sound"}
    assert states.pop("sound") == "evaluated"
    for name, state in states.items():
        assert state.startswith("damaged: "), name
        assert DAMAGES[name][0] in state
    assert "sound" in as_text(runs_table([summarize_run(path) for path in list_runs(runs)]))


def test_unexpected_json_does_not_break_the_list(finished_run: Run, tmp_path: Path) -> None:
    changed(finished_run, tmp_path / "runs", "odd").write("evaluation.json", b'{"top1": "good"}')
    assert listed(tmp_path / "runs")["odd"].startswith("damaged: ")


def test_a_folder_without_runs_has_an_empty_list(tmp_path: Path) -> None:
    """The command then names the one that starts a run."""
    for place in (tmp_path, tmp_path / "nowhere"):
        assert list_runs(place) == []
        result = CliRunner().invoke(main, ["runs", "--runs", str(place)])
        assert result.exit_code == 0
        assert "python -m training run --runs" in result.output
