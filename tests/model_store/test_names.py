"""Names of models and aliases, and version numbers."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.errors import InvalidNameError
from model_store.names import check_name, parse_version, printable


@pytest.mark.parametrize("name", ["a", "digits-resnet20", "A.b_c-9", "0", "x" * 128])
def test_a_name_is_returned(name: str) -> None:
    """It has up to 128 letters, digits, dots, underscores and hyphens."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-x",
        "a/b",
        "a\\b",
        "a\n",
        "\na",
        "a b",
        "a\0",
        "ä",
        "\uff11",
        "x" * 129,
    ],
)
def test_anything_else_is_rejected(name: str) -> None:
    """A name that leaves the store, is hidden in it, or can be written in two ways."""
    with pytest.raises(InvalidNameError, match="alias"):
        check_name(name, "alias")


@given(st.text())
def test_a_name_has_no_other_character(name: str) -> None:
    """Whatever text is tried."""
    try:
        check_name(name)
    except InvalidNameError:
        return
    assert set(name) <= set(string.ascii_letters + string.digits + "._-")
    assert name[0] in string.ascii_letters + string.digits


@pytest.mark.parametrize(
    "text",
    [
        "01",
        "+1",
        "-1",
        "0",
        "1.0",
        " 1",
        "1 ",
        "1\n",
        "\uff11",
        "²",
        "1_0",
        "1e3",
        "0x1",
        "",
        "9" * 19,
    ],
)
def test_another_spelling_of_a_version_is_rejected(text: str) -> None:
    """Two names must never mean one version."""
    with pytest.raises(InvalidNameError, match="version"):
        parse_version(text)


@given(st.integers(min_value=1, max_value=10**18 - 1))
def test_a_positive_integer_is_a_version(number: int) -> None:
    """Up to 18 digits."""
    assert parse_version(str(number)) == number


@given(st.text(alphabet=string.digits + "+- ._\uff11\uff12\n", max_size=20))
def test_a_version_has_one_spelling(text: str) -> None:
    """It is how Python writes that integer."""
    try:
        number = parse_version(text)
    except InvalidNameError:
        return
    assert str(number) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain.onnx", "plain.onnx"),
        ("Größe 図", "Größe 図"),
        ("a\nb\x1b[2K\t", r"a\nb\x1b[2K\t"),
        ("\udcff\u2028\u202e", r"\udcff\u2028\u202e"),
    ],
)
def test_printable_text_is_one_line_of_utf_8(text: str, expected: str) -> None:
    """What is not printable is escaped, and everything else stays."""
    assert printable(text) == expected
    assert printable(text).encode()
