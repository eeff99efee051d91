"""The report of a run is self-contained and shows the content of the run's files."""

import base64
import io
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from html_page import ADDRESSES, Page
from pictures import picture, put
from PIL import Image

from model_store.store import ModelStore
from training.errors import RunError
from training.gates.gate import GATES_FILE, gate
from training.reports import predictions, run_report
from training.reports.confusion import CELL_THUMBNAILS
from training.reports.mistakes import (
    SplitPredictions,
    class_metrics,
    confusion_matrix,
    softmax,
    worst_mistakes,
)
from training.reports.pages import REPORT_FILE, format_percent
from training.reports.run_report import PUBLISHED_REPORT_FILE, write_run_report
from training.run.data import RunData, open_run_data
from training.run.directory import Run
from training.run.request import RunRequest, start_run
from training.steps.calibrate import CALIBRATION_FILE, RunCalibration, read_calibration
from training.steps.evaluate import evaluate, read_figures, read_labels, read_logits
from training.steps.train import train

SCRIPT, QUOTES = '<script>&"', "'><img src=x onerror=y>"
UNDECODABLE = "\udcff<b>&\"'.png"  # how Python reads a byte that is no text
LOADING = {
    "script",
    "link",
    "iframe",
    "object",
    "embed",
    "base",
    "form",
    "video",
    "audio",
    "source",
    "use-credentials",
}


class Reported(NamedTuple):
    """A run with its data and its report. Tests change copies only."""

    run: Run
    data: RunData
    page: Page

    @property
    def predictions(self) -> SplitPredictions:
        """Predictions for the test images."""
        test = self.data.split.test
        return SplitPredictions("test", test, read_labels(self.run), softmax(read_logits(self.run)))

    def copy(self, place: Path) -> Run:
        return Run.open(Path(shutil.copytree(self.run.path, place / self.run.run_id)))


def written(run: Run, data: RunData) -> Page:
    """Write the report of the run again."""
    return Page(write_run_report(run, data).read_bytes())


@pytest.fixture(scope="module")
def digits(finished_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """Ten classes, three epochs, with gates."""
    run = Run.open(
        Path(
            shutil.copytree(
                finished_run.path, tmp_path_factory.mktemp("reported") / finished_run.run_id
            )
        )
    )
    data = open_run_data(run)
    gate(run, data)
    return Reported(run, data, written(run, data))


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """Two classes with names that need escaping, one epoch of mixed images, without gates."""
    place = tmp_path_factory.mktemp("awkward")
    names = [f"{QUOTES if seed % 2 else SCRIPT}/<i>&{seed}.png" for seed in range(80)]
    files = {name: picture(seed, width=100, height=70) for seed, name in enumerate(names)}
    root = put(place / "<b>&data", {**files, f"{SCRIPT}/{UNDECODABLE}": picture(80)})
    changes = ("epochs=1", "batch_size=16", "accuracy_floor=0.0", "mixing.mixup=0.3")
    request = RunRequest(
        (str(root),),
        "resnet20",
        model="awkward",
        recipe="modern",
        changes=changes,
        image_size=(72, 72),
    )
    run, _ = start_run(request, place / "runs", ModelStore(place / "store"))
    data = open_run_data(run)
    train(run, data)
    evaluate(run, data)
    return Reported(run, data, written(run, data))


@pytest.fixture(params=["digits", "awkward"])
def reported(request: pytest.FixtureRequest) -> Reported:
    return request.getfixturevalue(request.param)


def test_the_page_is_self_contained(reported: Reported) -> None:
    """It has no scripts, and all addresses are `data:` URIs or places on the page."""
    page = reported.page
    assert not {tag for tag, _ in page.elements} & LOADING
    addresses = [value for name in ADDRESSES for value in page.attributes(name)]
    assert len(addresses) > 20
    assert all(value.startswith(("data:image/", "#")) for value in addresses)
    assert all(place.startswith("#") for place in re.findall(r"url\(['\"]?([^)]*)", page.source))
    assert "@import" not in page.source
    assert not {
        name for _, attributes in page.elements for name in attributes if name.startswith("on")
    }
    (policy,) = [
        attributes["content"] for _, attributes in page.elements if attributes.get("http-equiv")
    ]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_copy_to_publish_has_no_images_of_the_matrix(reported: Reported) -> None:
    """It has the same numbers, curves and worst mistakes, and names no directories."""
    copy = Page((reported.run.path / PUBLISHED_REPORT_FILE).read_bytes())
    full = reported.page
    assert len(copy.source) < len(full.source)
    assert 'class="sheet"' in full.source
    assert 'class="sheet"' not in copy.source
    assert full.all("td") == copy.all("td")
    assert full.source.count("<svg") == copy.source.count("<svg") > 0
    assert full.source.count("<li>") > copy.source.count("<li>") > 0
    links = [link for link in copy.attributes("href") if not link.startswith("data:")]
    assert all(f'id="{link[1:]}"' in copy.source for link in links)
    assert str(reported.run.path.parent) not in copy.source
    assert str(reported.run.path.parent.parent) not in copy.source


def test_links_lead_to_unique_ids(reported: Reported) -> None:
    """Drawings share the ids of the page."""
    page = reported.page
    ids = page.attributes("id")
    assert [name for name, times in Counter(ids).items() if times > 1] == []
    wanted = {value for name in ("href", "xlink:href") for value in page.attributes(name)}
    wanted |= set(re.findall(r"url\(['\"]?([^)'\"]*)", page.source))
    assert wanted
    assert wanted <= {f"#{name}" for name in ids}
    assert sum(tag == "svg" for tag, _ in page.elements) == 4


def test_the_matrix_counts_the_test_images(reported: Reported) -> None:
    matrix, cells = confusion_matrix(reported.predictions), reported.page.cells
    assert sum(cells.values()) == len(reported.data.split.test)
    assert cells == {
        (row, column): int(matrix[row, column]) for row, column in np.argwhere(matrix).tolist()
    }


def test_each_cell_opens_its_thumbnails(reported: Reported) -> None:
    for (label, predicted), images in reported.page.cells.items():
        sheet = reported.page.source.partition(f'id="cell-{label}-{predicted}"')[2].partition(
            "</ul>"
        )
        assert sheet[0].count("<img ") == min(images, CELL_THUMBNAILS)
        if images > CELL_THUMBNAILS:
            assert (
                sheet[2]
                .lstrip()
                .startswith(f'<p class="quiet">… and {images - CELL_THUMBNAILS} more</p>')
            )


def test_the_page_states_the_metrics_of_the_evaluation(reported: Reported) -> None:
    figures, page = read_figures(reported.run), reported.page
    low, high = figures["top1_interval"]
    correct = int(confusion_matrix(reported.predictions).trace())
    assert f"{correct} of {figures['test_images']} images" in page.text
    assert f"95% interval {format_percent(low)} to {format_percent(high)}" in page.text
    shown = dict(re.findall(r'<dt>([^<]*)</dt><dd class="value">([^<]*)</dd>', page.source))
    assert shown["Test accuracy"] == format_percent(figures["top1"])
    assert shown["Loss"] == f"{figures['loss']:.4f}"
    assert shown["Calibration error"] == format_percent(figures["ece"])
    rows = re.findall(
        r"<tr><th.*?</th><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td></tr>",
        page.part("classes"),
    )
    classes = class_metrics(
        confusion_matrix(reported.predictions), reported.data.images.class_names
    )
    expected = [
        (format_percent(each.recall), format_percent(each.precision), str(each.images))
        for each in classes
    ]
    assert rows == expected


def test_the_page_states_the_metrics_of_the_calibration(
    digits: Reported, awkward: Reported
) -> None:
    """A run without calibration has no such table."""
    calibrated = read_calibration(digits.run)
    rows = dict(
        re.findall(
            r'<tr><th scope="row">([^<]*)</th>(<td.*?)</tr>', digits.page.part("calibration")
        )
    )
    shown = {name: re.findall(r">([^<]+)</td>", cells) for name, cells in rows.items()}
    splits = [calibrated.validation, calibrated.test]
    assert shown["images"] == ["179", "359"]
    assert shown["calibration error"] == [
        f"{format_percent(each.ece_before)} → {format_percent(each.ece_after)}"
        for each in splits
        if each
    ]
    assert shown["abstained"] == [format_percent(each.abstained) for each in splits if each]
    for coverage in ("0.8", "0.9", "0.95"):
        sets = [each.sets[coverage] for each in splits if each]
        assert shown[f"prediction sets, coverage {coverage}"] == [
            f"{format_percent(each.coverage)}, {each.mean_size:.2f} labels" for each in sets
        ]
    assert "As it is served" not in awkward.page.text


def test_the_page_states_why_there_is_no_calibration(
    awkward: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_report, "SMALL_SAMPLE", 1)
    run = awkward.copy(tmp_path)
    run.write(
        CALIBRATION_FILE, RunCalibration(notices=("not <calibrated>",)).model_dump_json().encode()
    )
    assert "not &lt;calibrated&gt;" in written(run, awkward.data).part("calibration")
    run.write(CALIBRATION_FILE, b"{")
    assert "calibration.json is damaged" in written(run, awkward.data).part("calibration")


def test_the_worst_mistakes_are_shown_in_order(digits: Reported) -> None:
    """Each has a thumbnail with every pixel."""
    worst = worst_mistakes(digits.predictions, 24)
    items = re.findall(r"<li>(.*?)</li>", digits.page.part("worst"), re.DOTALL)
    assert len(items) == len(worst) > 0
    for item, image in zip(items, worst, strict=True):
        assert f'alt="labelled {image.label}, predicted {image.predicted}"' in item
        found = re.search(r'src="data:image/png;base64,([^"]+)" class="small"', item)
        assert found
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB"))
        (expected,) = digits.data.chunks(np.array([image.index]))
        assert (shown == expected[0]).all()


def test_names_of_classes_files_and_data_are_escaped(awkward: Reported) -> None:
    page = awkward.page
    assert {SCRIPT, QUOTES} <= set(page.all("th"))
    assert "<b>&data" in page.text
    titles = page.attributes("title")
    assert any(title.startswith(f"{SCRIPT}/<i>&") for title in titles)
    assert any(title.startswith(f"{QUOTES}/<i>&") for title in titles)
    assert f"{SCRIPT}/\\udcff<b>&\"'.png" in page.text, "among what the check found"
    assert any(
        f"{SCRIPT}, predicted" in title or f", predicted {SCRIPT}" in title for title in titles
    )
    assert not {tag for tag, _ in page.elements} & {"script", "i"}
    assert all(
        attributes["src"].startswith("data:image/jpeg")
        for tag, attributes in page.elements
        if tag == "img"
    )


def test_a_run_of_one_epoch_and_two_classes_has_a_report(awkward: Reported) -> None:
    assert "1 epoch in " in awkward.page.text
    assert awkward.page.all("figcaption") == ["Loss", "Accuracy", "Learning rate"]
    assert "Top-5" not in awkward.page.text


def test_mixed_images_have_no_training_accuracy(awkward: Reported, digits: Reported) -> None:
    note = "Images are mixed in training"
    labels = {
        reported.run.run_id: reported.page.attributes("aria-label")
        for reported in (awkward, digits)
    }
    assert note in awkward.page.text
    assert "accuracy: validation by epoch" in labels[awkward.run.run_id]
    assert note not in digits.page.text
    assert "accuracy: training, validation by epoch" in labels[digits.run.run_id]
    assert "Top-5" in digits.page.text


def test_changed_values_of_the_recipe_are_bold(digits: Reported) -> None:
    (epochs,) = re.findall(r"<dt>epochs</dt><dd>(.*?)</dd>", digits.page.part("again"))
    (momentum,) = re.findall(
        r"<dt>optimizer.momentum</dt><dd>(.*?)</dd>", digits.page.part("again")
    )
    assert epochs == '<b title="set on the command line">3</b>'
    assert momentum == "0.9"
    assert digits.run.config.command in digits.page.all("pre")


def test_the_page_lists_the_results_of_the_gates(
    digits: Reported, awkward: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without gates has no such section."""
    assert 'id="gates"' not in awkward.page.source
    assert 'href="#gates"' not in awkward.page.source
    monkeypatch.setattr(run_report, "SMALL_SAMPLE", 1)
    run = digits.copy(tmp_path)
    values = run.read_json(GATES_FILE, "gate")
    first, second, third, *_ = values["checks"]
    first |= {"passed": False, "waived": "a <demonstration>", "detail": "x < y"}
    second |= {"passed": False, "waived": None}
    run.write_json(GATES_FILE, values)
    page = written(run, digits.data)
    rows = re.findall(
        r'<tr><th scope="row">(.*?)</th>.*?<td>(.*?)</td><td class="quiet">(.*?)</td></tr>',
        page.part("gates"),
    )
    assert [row[0] for row in rows] == [check["check"] for check in values["checks"]]
    assert rows[0][1:] == ('<span class="bad">waived</span>: a &lt;demonstration&gt;', "x &lt; y")
    assert rows[1][1] == '<span class="bad">failed</span>'
    assert rows[2][1] == '<span class="good">passed</span>'
    assert third["passed"]


def test_unreadable_gates_do_not_prevent_the_report(
    digits: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page names the reason."""
    monkeypatch.setattr(run_report, "SMALL_SAMPLE", 1)
    run = digits.copy(tmp_path)
    (run.path / "classifier.npz").write_bytes(b"another")
    changed = written(run, digits.data)
    assert "changed after the gates" in changed.part("gates")
    assert "passed" not in changed.part("gates")
    assert changed.cells == digits.page.cells
    run.write(GATES_FILE, b"{")
    assert "gates.json is damaged" in written(run, digits.data).part("gates")


def test_a_perfect_test_split_has_no_mistakes(awkward: Reported, tmp_path: Path) -> None:
    run = awkward.copy(tmp_path)
    labels = read_labels(run)
    write_logits(run, np.eye(2, dtype=np.float32)[labels] * 30, labels)
    run.write_json(
        "evaluation.json", {**read_figures(run), "top1": 1.0, "top1_interval": [0.7, 1.0]}
    )
    page = written(run, awkward.data)
    assert "<li>" not in page.part("worst")
    assert page.cells == {(label, label): int((labels == label).sum()) for label in range(2)}
    assert "0 mistakes in " in page.text
    assert "100.00%" in page.all("title")[0]


def test_the_page_states_samples_and_openings_of_the_test_split(
    awkward: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_report, "LARGE_SAMPLE", 5)
    run = awkward.copy(tmp_path)
    opened = ["2024-05-01T10:00:00+00:00", "2024-06-02T11:30:00+00:00"]
    run.write_json("evaluation.json", {**read_figures(run), "opened_at": opened})
    page = written(run, awkward.data)
    train_images = len(awkward.data.split.train)
    assert f"a sample of 5 of {train_images} train images" in page.text
    for time in ("opened 2 times", "1 May 2024 at 10:00 UTC", "2 June 2024 at 11:30 UTC"):
        assert time in page.text
    assert f"all {train_images} train images" in awkward.page.text
    assert "The test split was opened once, on " in awkward.page.text


def test_many_classes_become_a_list_of_the_most_confused_pairs(
    digits: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "MATRIX_CLASSES", 10)
    monkeypatch.setattr(run_report, "SMALL_SAMPLE", 1)
    page = written(digits.copy(tmp_path), digits.data)
    wrong = {place: images for place, images in digits.page.cells.items() if place[0] != place[1]}
    assert page.cells == wrong
    assert list(page.cells.values()) == sorted(wrong.values(), reverse=True)
    assert 'class="matrix' not in page.source


def test_a_report_is_reproducible_and_changes_nothing_else(
    awkward: Reported, tmp_path: Path
) -> None:
    run = awkward.copy(tmp_path)
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    progress: list[tuple[int, int]] = []
    path = write_run_report(run, awkward.data, lambda done, total: progress.append((done, total)))
    assert path == run.path / REPORT_FILE
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before
    assert path.read_bytes().decode() == awkward.page.source
    assert run.run_id in awkward.page.text
    others = len(awkward.data.split.train) + len(awkward.data.split.validation)
    assert (others, others) in progress
    assert progress[-1][0] == progress[-1][1]


def test_a_run_needs_an_evaluation_for_its_report(
    new_run: Callable[..., Run], digits: Reported, tmp_path: Path
) -> None:
    run = new_run()
    with pytest.raises(RunError, match="training evaluate"):
        write_run_report(run, digits.data)
    assert not run.has(REPORT_FILE)
    trained = digits.copy(tmp_path)
    (trained.path / "evaluation.npz").unlink()
    with pytest.raises(RunError, match=r"has no evaluation\.npz"):
        write_run_report(trained, digits.data)


def test_an_evaluation_of_other_images_is_rejected(awkward: Reported, tmp_path: Path) -> None:
    run = awkward.copy(tmp_path)
    write_logits(run, read_logits(run)[1:], read_labels(run)[1:])
    images = len(awkward.data.split.test)
    with pytest.raises(
        RunError, match=rf"\[{images - 1}, 2\], but the test split needs \[{images}, 2\]"
    ):
        write_run_report(run, awkward.data)


def write_logits(run: Run, logits: np.ndarray, labels: np.ndarray) -> None:
    with open(run.path / "evaluation.npz", "wb") as file:
        np.savez(file, logits=logits, labels=labels)
