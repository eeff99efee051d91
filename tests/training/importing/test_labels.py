"""Labels come in several kinds of file, and none of them is misread in silence."""

import json
from pathlib import Path

import pytest

from training.errors import ForeignModelError
from training.importing.labels import read_labels, told_apart


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nowl\n",
        "\ufeffcat\r\ndog\r\nowl",
        json.dumps(["cat", "dog", "owl"]),
        json.dumps({"2": "owl", "0": "cat", "1": "dog"}),
        json.dumps({"0": ["n01", "cat"], "1": ["n02", "dog"], "2": ["n10", "owl"]}),
    ],
)
def test_each_kind_of_file_gives_the_same_names(tmp_path: Path, text: str) -> None:
    """A name a line, a JSON list, an object by index, Keras's class index."""
    (tmp_path / "labels").write_text(text, encoding="utf-8", newline="")
    assert read_labels(tmp_path / "labels") == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "hold 0 names"),
        (b"cat\n", "hold 1 names"),
        (b"cat\n\ndog\n", "blank or unprintable name in place 1"),
        (b"cat\nd\x00og\n", "unprintable"),
        (b"\xff\xfe\x00", "can not be read as text"),
        (b'["cat", 3]', "no JSON list of names"),
        (b'{"0": "cat", "2": "dog"}', "its keys are not 0, 1, 2"),
        (b'{"cat": "0", "dog": "1"}', "no JSON list of names"),
        (b"[", "no JSON list of names"),
        (b"[" * 100_000, "no JSON list of names"),
        (b'{"a":' * 100_000, "no JSON list of names"),
    ],
)
def test_a_file_that_is_no_list_of_names_is_refused(
    tmp_path: Path, data: bytes, message: str
) -> None:
    """What is wrong, and where."""
    (tmp_path / "labels").write_bytes(data)
    with pytest.raises(ForeignModelError, match=message):
        read_labels(tmp_path / "labels")


def test_names_that_stand_there_twice_get_their_index() -> None:
    """ImageNet's lists have two cranes, and a manifest has no name twice."""
    assert told_apart(["crane", "cat", "crane"]) == (("crane (0)", "cat", "crane (2)"), ["crane"])
    assert told_apart(["cat", "dog"]) == (("cat", "dog"), [])


def test_names_that_can_not_be_told_apart_are_refused() -> None:
    """Where even the index makes a name that is taken."""
    with pytest.raises(ForeignModelError, match="can not be told apart: crane"):
        told_apart(["crane", "crane", "crane (1)"])
