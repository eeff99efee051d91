"""Long arrays of numbers in JSON, which are read without a JSON parser."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.errors import BadRequestError
from service.protocols.open_inference import number_text
from service.protocols.open_inference.number_text import cut_long_arrays


@pytest.fixture
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short arrays count as long, and are read in many slices."""
    monkeypatch.setattr(number_text, "LONG_ARRAY_BYTES", 8)
    monkeypatch.setattr(number_text, "SLICE_BYTES", 16)
    monkeypatch.setattr(number_text, "PAUSE_SECONDS", 0)


@pytest.mark.usefixtures("short_slices")
@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(
    images=arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))),
    indent=st.none() | st.integers(0, 3),
)
def test_numbers_are_those_of_a_json_parser(images: np.ndarray, indent: int | None) -> None:
    """Nested, with any spaces; the rest of the document stays as it is."""
    document = {"a": [1, 2], "inputs": [{"data": images.tolist(), "name": "images"}], "z": {}}
    text, found = cut_long_arrays(json.dumps(document, indent=indent).encode())
    (key,) = found
    np.testing.assert_array_equal(found[key], images.reshape(-1))
    document["inputs"] = [{"data": key, "name": "images"}]
    assert json.loads(text) == document


@pytest.mark.usefixtures("short_slices")
@pytest.mark.parametrize(
    "data",
    [
        "1,2,3,4,5,256",
        "1,2,3,4,5,1000",
        "1,,2,3,4,5,6",
        "1 2,3,4,5,6,7",
        "[1,2,3,4,5,6",
        "1,2,3,4,",
    ],
)
def test_malformed_array_is_an_error(data: str) -> None:
    """Numbers above 255, and commas and brackets that do not match."""
    with pytest.raises(BadRequestError):
        cut_long_arrays(f'{{"data":[{data}]}}'.encode())


@pytest.mark.usefixtures("short_slices")
@pytest.mark.parametrize(
    "text",
    [
        '{"data":[1.5,2,3,4,5,6,7]}',
        '{"data":[-1,2,3,4,5,6,7]}',
        '{"data":"[1,2,3,4,5,6,7]"}',
        '{"date":[1,2,3,4,5,6,7,8]}',
        '{"id":"\\"data\\":[1,2,3,4,5,6]"}',
        '{"data":[',
        '"data"',
    ],
)
def test_other_text_is_left_to_the_parser(text: str) -> None:
    """Fractions, negative numbers, strings and other keys."""
    assert cut_long_arrays(text.encode()) == (text.encode(), {})


def test_many_keys_take_no_time_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first ones are looked at, because each look copies a slice."""
    looks: list[int] = []

    def find_end(_: bytes, start: int) -> int:
        looks.append(start)
        return start

    monkeypatch.setattr(number_text, "_find_end", find_end)
    text = b'{"data":[1,' * 10_000
    assert cut_long_arrays(text) == (text, {})
    assert len(looks) == number_text.MAX_KEYS
