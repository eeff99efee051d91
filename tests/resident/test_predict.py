"""`resident predict`: the answers of the service, from the command line."""

import csv
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from server_process import ServerProcess, running

from resident.cli import main

ROOT = Path(__file__).parents[2]
CAT = str(ROOT / "docs/images/cat.jpg")


def predict(*arguments: str, data: bytes | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["predict", *arguments], input=data)
    return done.exit_code, done.stdout


def test_a_photo_is_classified_with_the_built_in_model() -> None:
    code, output = predict(CAT)
    assert code == 0
    assert output.split()[1] == "cat"


def test_an_image_that_cannot_be_read_does_not_stop_the_others_and_fails_the_command(
    tmp_path: Path,
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    code, output = predict(str(tmp_path), CAT, "--format", "json")
    broken, cat = map(json.loads, output.splitlines())
    assert code == 1
    assert broken["error"].startswith(("truncated_image", "corrupt_image"))
    assert cat["predictions"][0]["label"] == "cat"


def test_an_image_comes_from_stdin() -> None:
    code, output = predict("-", "--format", "json", data=Path(CAT).read_bytes())
    assert code == 0
    assert json.loads(output)["predictions"][0]["label"] == "cat"


def test_csv_has_one_row_for_each_label() -> None:
    _, output = predict(CAT, "--top-k", "3", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(output)))
    assert [row["path"] for row in rows] == [CAT] * 3
    assert rows[0]["label"] == "cat"


@pytest.mark.parametrize("argument", ["no-such-file.jpg", "no/*.jpg"])
def test_an_argument_that_names_no_image_is_a_usage_error(argument: str) -> None:
    assert predict(argument)[0] == 2


@pytest.mark.parametrize("number", ["0", "1001"])
def test_number_of_labels_that_the_service_would_reject_is_a_usage_error(number: str) -> None:
    assert predict(CAT, "--top-k", number)[0] == 2
    assert predict(CAT, "--top-k", "1000")[0] == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    # In fp32, as a prediction without a service: the built-in models have INT8 too.
    with running("--store", tmp_path_factory.mktemp("store"), "--precision", "fp32") as server:
        yield server.announced()


def test_the_service_gives_the_same_answer(server: ServerProcess) -> None:
    _, local = predict(CAT, "--format", "json", "--model", "cifar10")
    code, remote = predict(CAT, "--format", "json", "--model", "cifar10", "--url", server.address)
    assert code == 0
    assert json.loads(remote) == json.loads(local)


def test_an_error_of_the_service_has_its_code(server: ServerProcess) -> None:
    code, output = predict(CAT, "--format", "json", "--model", "none", "--url", server.address)
    assert code == 1
    assert json.loads(output)["error"].startswith("model_not_found")


def test_a_service_that_does_not_answer_is_an_error() -> None:
    code, output = predict(CAT, "--format", "json", "--url", "http://127.0.0.1:9")
    assert code == 1
    assert "127.0.0.1:9" in json.loads(output)["error"]


class Overloaded(BaseHTTPRequestHandler):
    """Answers 429 to the first request, as the service does when it is overloaded."""

    asked = 0

    def do_POST(self) -> None:
        type(self).asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        busy = self.asked == 1
        results = [{"predictions": [{"label": "cat", "index": 3, "score": 1.0}]}]
        body = json.dumps({"model": "m", "version": 1, "results": results}).encode()
        self.send_response(429 if busy else 200)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_an_overloaded_service_is_asked_again() -> None:
    with HTTPServer(("127.0.0.1", 0), Overloaded) as http:
        threading.Thread(target=http.serve_forever).start()
        code, output = predict(
            CAT, "--format", "json", "--url", f"http://127.0.0.1:{http.server_port}"
        )
        http.shutdown()
    assert code == 0
    assert json.loads(output)["predictions"][0]["label"] == "cat"
    assert Overloaded.asked == 2


def test_the_service_of_the_variable_is_asked_unless_local_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RESIDENT_URL", "http://127.0.0.1:9")
    assert predict(CAT)[0] == 1
    assert predict(CAT, "--local")[0] == 0
