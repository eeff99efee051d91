"""CSVs of path,label: what is valid, and messages for what is not."""

from pathlib import Path

import pytest
from pictures import put

from training.data.image_set import FREE, TEST, TRAIN, VALIDATION
from training.data.sources import load_data
from training.errors import DataError


def listed(root: Path, text: str, encoding: str = "utf-8") -> str:
    path = root / "pets.csv"
    path.write_bytes(text.encode(encoding))
    return str(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return put(tmp_path, {"a.png": 1, "b.png": 2, "deep/c, d.png": 3})


def test_rows_keep_their_order_and_classes_are_sorted(root: Path) -> None:
    """Paths are relative to the CSV or absolute, splits are optional, other columns ignored."""
    text = (
        "\ufeffPath, Label, Split, note\na.png, 10, train, x\n"
        f'"deep/c, d.png",9,VAL,\n\n{root}/b.png,9,\nb.png/../a.png,9,test,'
    )
    (root / "b.png").rename(root / "b2.png")
    (root / "b.png").mkdir()
    data = load_data(listed(root, text.replace(f"{root}/b.png", f"{root}/b2.png")))
    assert data.name == "pets"
    assert data.class_names == ("9", "10")
    assert data.labels.tolist() == [1, 0, 0, 0]
    assert data.given_splits.tolist() == [TRAIN, VALIDATION, FREE, TEST]
    assert list(data.paths)[:2] == ["a.png", "deep/c, d.png"]
    assert data.encoded[1] == (root / "deep/c, d.png").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "one column path and one label"),
        ("file,label\na.png,cat", "one column path; "),
        ("path;label\na.png;cat", "'path;label'"),
        ("path,label\n", "lists no images"),
        ("path,label\na.png,", "line 2: the label is empty"),
        ("path,label\na.png", "line 2: the label is empty"),
        ("path,label\n,cat", "line 2: the path is empty"),
        ("path,label\na.png,retriever, golden", "line 2: it has 3 fields, expected 2"),
        ("path,label,split\na.png,cat,train,x", "line 2: it has 4 fields, expected 3"),
        ("path,label,split,split\na.png,cat,train,test", "several columns split"),
        ("path,label\n\na.png,cat\nz.png,cat", "line 4: z.png: No such file"),
        ("path,label\ndeep,cat", "line 2: deep"),
        (
            "path,label\na.png,cat\nb.png,cat\n./a.png,dog",
            "line 4: ./a.png is listed in line 2",
        ),
        ("path,label,split\na.png,cat,holdout", "line 2: there is no split 'holdout'"),
        ('path,label\n"a.png,cat', "CSV: line 2"),
        ('path,label\n"a\nb.png",cat', "line 3: the path"),
        (
            "path,label\n" + "z.png,cat\n" * 9,
            "line 6: z.png: No such file or directory; and 4 more",
        ),
    ],
)
def test_an_error_is_named_with_its_line(root: Path, text: str, message: str) -> None:
    """All errors are reported at once."""
    with pytest.raises(DataError) as caught:
        load_data(listed(root, text))
    assert message in str(caught.value)


def test_another_encoding_is_refused_with_the_line(root: Path) -> None:
    with pytest.raises(DataError, match="UTF-8: line 3"):
        load_data(listed(root, "path,label\na.png,cat\nb.png,caf\u00e9", "latin-1"))


def test_empty_fields_after_the_last_column_are_ignored(root: Path) -> None:
    """Spreadsheets write them."""
    data = load_data(listed(root, "path,label\na.png,cat,,\nb.png,dog, \n"))
    assert data.class_names == ("cat", "dog")


def test_a_label_with_a_comma_is_quoted(root: Path) -> None:
    data = load_data(listed(root, 'path,label\na.png,"retriever, golden"\nb.png,cat\n'))
    assert data.class_names == ("cat", "retriever, golden")
