"""Label files: the supported kinds, and errors for everything else."""

import json
from pathlib import Path

import pytest

from training.errors import ForeignModelError
from training.importing.labels import make_unique, read_labels


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nowl\n",
        "\ufeffcat\r\ndog\r\nowl",
        json.dumps(["cat", "dog", "owl"]),
        json.dumps({"2": "owl", "0": "cat", "1": "dog"}),
        json.dumps({"0": ["n01", "cat"], "1": ["n02", "dog"], "2": ["n10", "owl"]}),
        json.dumps({"dog": 1, "owl": 2, "cat": 0}),
        json.dumps(
            {
                "architectures": ["ResNetForImageClassification"],
                "id2label": {"0": "cat", "1": "dog", "2": "owl"},
                "label2id": {"cat": 0, "dog": 1, "owl": 2},
            }
        ),
        "{0: 'cat', 2: 'owl', 1: 'dog'}",
        "{'cat': 0, 'dog': 1, 'owl': 2}\n",
        "['cat', 'dog', 'owl',]",
        "('cat', 'dog', 'owl')",
        "index,name\n2,owl\n0,cat\n1,dog\n",
        "label,id\r\ncat,0\r\ndog,1\r\nowl,2\r\n",
        "0,cat\n1,dog\n2,owl",
        '0,"cat"\n1,"dog"\n2,"owl"',
    ],
)
def test_each_kind_of_file_gives_the_same_names(tmp_path: Path, text: str) -> None:
    """Lines, CSV, a list, an object by index or by name, Keras's and Hugging Face's files."""
    (tmp_path / "labels").write_text(text, encoding="utf-8", newline="")
    assert read_labels(tmp_path / "labels") == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "have 0 names"),
        (b"cat\n", "have 1 names"),
        (b"cat\n\ndog\n", "index 1 "),
        (b"cat\nd\x00og\n", "index 1 "),
        (b"\xff\xfe\x00", "as text"),
        (b'["cat", 3]', "one name per line.*CSV.*JSON.*id2label"),
        (b'{"0": "cat", "2": "dog"}', "keys"),
        (b'{"cat": 0, "dog": 2}', "keys"),
        (b'{"cat": 0, "dog": 0, "owl": 1}', "index 0"),
        (b'{"cat": "0", "dog": "1"}', "'cat'"),
        (b'{"cat": true, "dog": false, "owl": 2.5}', "'cat'"),
        (b'{"id2label": {"0": "cat", "2": "dog"}}', "keys"),
        (b"index,name\n0,cat\n2,dog\n", "columns"),
        (b"[", "JSON"),
        (b"[print(1), 'dog']", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"a":' * 100_000, "JSON"),
        (b"(" * 100_000, "JSON"),
    ],
)
def test_a_file_that_is_not_a_list_of_names_is_refused(
    tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "labels").write_bytes(data)
    with pytest.raises(ForeignModelError, match=message):
        read_labels(tmp_path / "labels")


def test_a_comma_in_a_name_is_not_csv(tmp_path: Path) -> None:
    """ImageNet's names have several synonyms."""
    (tmp_path / "labels").write_text("tench, Tinca tinca\ngoldfish, Carassius auratus\n")
    assert read_labels(tmp_path / "labels") == (
        "tench, Tinca tinca",
        "goldfish, Carassius auratus",
    )


def test_repeated_names_get_their_index() -> None:
    """ImageNet has two cranes, and class names in a manifest are unique."""
    assert make_unique(["crane", "cat", "crane"]) == (("crane (0)", "cat", "crane (2)"), ["crane"])
    assert make_unique(["cat", "dog"]) == (("cat", "dog"), [])


def test_names_that_stay_ambiguous_are_refused() -> None:
    """The name with its index is also taken."""
    with pytest.raises(ForeignModelError, match="crane"):
        make_unique(["crane", "crane", "crane (1)"])
