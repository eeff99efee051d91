"""Responses as JSON, CSV and lines of JSON, as `Accept` asks for."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from colour_model import encode, make_store, plain, publish
from http_problems import check_problem
from PIL import Image
from server_process import running

from model_store.manifest import Calibration
from service.http.response_formats import CSV, JSON, LINES, choose_format

RED, BLUE = plain("red"), plain("blue")
DARK = encode(Image.new("RGB", (8, 8), (10, 8, 12)))
CALIBRATION = Calibration(energy_threshold=-4.0, conformal_thresholds={"0.9": 0.2})


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    store = make_store(tmp_path_factory.mktemp("formats") / "store")
    publish(store, calibration=CALIBRATION)
    with (
        running("--store", store.root, "--no-builtin") as server,
        server.announced().client() as client,
    ):
        yield client


def ask(client: httpx.Client, accept: str, query: str = "?top_k=2") -> httpx.Response:
    """Two images, one that is damaged, and one that the model abstains on."""
    files = [
        ("images", (name, image))
        for name, image in (
            ("red, plain.png", RED),
            ("cut.png", RED[:-30]),
            ("blue.png", BLUE),
            ("dark.png", DARK),
        )
    ]
    return client.post(f"/v1/predict{query}", files=files, headers={"accept": accept})


def test_csv_has_a_row_per_prediction(calibrated: httpx.Client) -> None:
    """The values are those of the JSON response."""
    response = ask(calibrated, CSV)
    assert response.headers["content-type"] == CSV
    header, *rows = list(csv.reader(io.StringIO(response.text, newline="")))
    assert header == ["image", "name", "rank", "label", "index", "score", "abstained", "error"]
    results = ask(calibrated, JSON).json()["results"]
    expected = []
    for image, result in enumerate(results):
        if "error" in result:
            expected.append(
                [str(image), result["name"], "", "", "", "", "", result["error"]["code"]]
            )
        for rank, best in enumerate(result.get("predictions", []), start=1):
            values = [str(best[field]) for field in ("label", "index", "score")]
            abstained = str(result["abstained"]).lower()
            expected.append([str(image), result["name"], str(rank), *values, abstained, ""])
    assert rows == expected
    assert len(rows) == 7
    assert rows[0][1] == "red, plain.png"
    assert rows[2][-1] == "truncated_image"
    assert rows[5][6] == "true"


def test_prediction_set_is_a_column(calibrated: httpx.Client) -> None:
    """As JSON, in the first row of each image."""
    response = ask(calibrated, CSV, "?top_k=2&coverage=0.9")
    header, *rows = list(csv.reader(io.StringIO(response.text, newline="")))
    assert header[-1] == "labels"
    results = ask(calibrated, JSON, "?top_k=2&coverage=0.9").json()["results"]
    assert json.loads(rows[0][-1]) == results[0]["labels"]
    assert rows[1][-1] == rows[2][-1] == ""


def test_lines_are_the_results(calibrated: httpx.Client) -> None:
    response = ask(calibrated, LINES)
    assert response.headers["content-type"] == LINES
    lines = [json.loads(line) for line in response.text.splitlines()]
    results = ask(calibrated, JSON).json()["results"]
    assert lines == [{"image": image, **result} for image, result in enumerate(results)]
    assert [line["name"] for line in lines][2:] == ["blue.png", "dark.png"]


@pytest.mark.parametrize("media_type", [CSV, LINES])
def test_error_of_the_request_is_a_problem_whatever_it_accepts(
    client: httpx.Client, media_type: str
) -> None:
    response = client.post("/v1/predict", content=RED[:-30], headers={"accept": media_type})
    check_problem(response, 400, "truncated_image")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/csv", CSV),
        ("Text/CSV; charset=utf-8", CSV),
        ("text/*", CSV),
        ("application/*", JSON),
        ("application/x-ndjson, application/json;q=0.9", LINES),
        ("application/json;q=0.1, text/csv;q=0.2", CSV),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
        ("*/*, text/csv", CSV),
        ("text/csv;q=0", JSON),
        ("text/csv; q=0.000, application/x-ndjson; q=0.001", LINES),
        ("application/xml", JSON),
        ("image/png", JSON),
        (";,;q=;q=2, text/csv;q=x", CSV),
        ("text/csv," * 100_000, CSV),
    ],
)
def test_preferred_format_is_chosen(accept: str, chosen: str) -> None:
    assert choose_format(accept) == chosen


def test_large_csv_is_complete(calibrated: httpx.Client) -> None:
    files: Any = [("images", (f"{number}.png", RED)) for number in range(64)]
    response = calibrated.post("/v1/predict?top_k=7", files=files, headers={"accept": CSV})
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert [int(row["image"]) for row in rows] == [image for image in range(64) for _ in range(7)]
