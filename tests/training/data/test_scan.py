"""The scan: facts and pixels from one decode, the same for any number of workers, cached."""

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture, put
from PIL import Image

from model_store.errors import ImageError
from model_store.manifest import Preprocessing
from model_store.preprocessing import prepare
from training.data import scan as scan_module
from training.data.image_set import ImageSet
from training.data.scan import ImageFacts, scan
from training.data.scan_cache import PIXELS, ROWS
from training.data.sources import load_data

SPEC = Preprocessing(resize=10, crop_height=8, crop_width=8, background=(10, 20, 30))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "resident" / "scans"


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(1, 16, 12), "JPEG", exif=exif.tobytes())


def transparent(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGBA", (12, 10), (*colour, 0))
    image.paste((*colour, 255), (2, 2, 6, 6))
    return image


KINDS = {
    "a/turned.jpg": turned(),
    "a/grey-16.png": encoded(
        Image.fromarray(np.arange(120, dtype=np.uint16).reshape(10, 12) * 500)
    ),
    "a/animated.gif": encoded(
        picture(2), "GIF", save_all=True, append_images=[picture(3), picture(4)]
    ),
    "a/cmyk.jpg": encoded(picture(5).convert("CMYK"), "JPEG"),
    "a/alpha.png": encoded(transparent((200, 0, 0))),
    "a/palette.png": encoded(picture(6).quantize(16)),
    "a/lossless.webp": encoded(picture(7), "WEBP", lossless=True),
    "a/pages.tiff": encoded(picture(8), "TIFF", save_all=True, append_images=[picture(9)]),
    "b/cut.jpg": encoded(picture(10, 64, 64), "JPEG")[:2000],
    "b/text.jpg": b"this is no picture",
    "b/nothing.png": b"",
    "b/float.tiff": encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
    "b/good.png": encoded(picture(11)),
}


@pytest.fixture
def kinds(tmp_path: Path) -> ImageSet:
    return load_data(str(put(tmp_path / "kinds", KINDS)))


def prepared(data: bytes) -> tuple[np.ndarray, str]:
    try:
        return prepare(data, SPEC), ""
    except ImageError as error:
        return np.zeros((8, 8, 3), np.uint8), str(error)


def by_path(data: ImageSet, facts: list[ImageFacts]) -> dict[str, ImageFacts]:
    return dict(zip(data.paths, facts, strict=True))


def test_pixels_are_exactly_those_of_prepare(kinds: ImageSet) -> None:
    """For every mode, rotated or transparent; unreadable images are zeros with prepare's error."""
    result = scan(kinds, SPEC)
    assert result.pixels is not None
    assert result.pixels.shape == (13, 8, 8, 3)
    for index, fact in enumerate(result.facts):
        pixels, error = prepared(kinds.encoded[index])
        assert fact.error == error
        assert np.array_equal(result.pixels[index], pixels), kinds.paths[index]
    assert sum(bool(fact.error) for fact in result.facts) == 4


def test_facts_say_what_each_image_is(kinds: ImageSet) -> None:
    """Upright size, mode, format, bits, orientation and frames, or the error."""
    facts = by_path(kinds, list(scan(kinds).facts))
    assert facts["a/turned.jpg"][1:] == (12, 16, "RGB", "JPEG", 8, 6, 1, "")
    assert facts["a/grey-16.png"][3:6] == ("I;16", "PNG", 16)
    assert facts["a/animated.gif"][4:8] == ("GIF", 8, 1, 3)
    assert facts["a/cmyk.jpg"].mode == "CMYK"
    assert facts["a/pages.tiff"].frames == 2
    assert "ends before the image does" in facts["b/cut.jpg"].error
    assert "no image signature" in facts["b/text.jpg"].error
    assert "no image signature" in facts["b/nothing.png"].error
    assert facts["b/float.tiff"].error
    assert facts["b/good.png"].error == ""


def test_the_digest_is_of_pixels_not_of_files(tmp_path: Path) -> None:
    """Lossless format, opaque alpha and EXIF rotation do not matter; a transposed size does."""
    upright = picture(1, 16, 12)
    exif = Image.Exif()
    exif[0x0112] = 6
    held = encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif.tobytes())
    opaque = upright.convert("RGBA")
    files = {
        "a/1.png": upright,
        "a/2.bmp": upright,
        "a/3.webp": encoded(upright, "WEBP", lossless=True),
        "a/4.tiff": upright,
        "a/5.png": opaque,
        "a/6.png": held,
        "b/1.png": Image.new("L", (6, 4)),
        "b/2.png": Image.new("L", (4, 6)),
    }
    digests = [fact.digest for fact in scan(load_data(str(put(tmp_path / "data", files)))).facts]
    assert len(set(digests[:6])) == 1
    assert len(set(digests)) == 3


def test_drawings_that_differ_in_transparency_alone_are_different(tmp_path: Path) -> None:
    files = {
        "a/white.png": transparent((255, 255, 255)),
        "a/black.png": transparent((0, 0, 0)),
        "a/full.png": Image.new("RGB", (12, 10), "white"),
        "b/empty.png": Image.new("RGBA", (12, 10)),
    }
    facts = scan(load_data(str(put(tmp_path / "data", files)))).facts
    assert len({fact.digest for fact in facts}) == 4


def test_the_result_is_the_same_for_any_number_of_workers(kinds: ImageSet, cache: Path) -> None:
    one = scan(kinds, SPEC, workers=1)
    shutil.rmtree(cache)
    four = scan(kinds, SPEC, workers=4)
    assert (one.facts, one.digest) == (four.facts, four.digest)
    assert one.pixels is not None
    assert four.pixels is not None
    assert np.array_equal(one.pixels, four.pixels)


def test_the_digest_of_the_data_is_known() -> None:
    """Manifests state it, so it must not depend on machine or image size."""
    digits = load_data("digits")
    assert (
        scan(digits).digest
        == scan(digits, SPEC).digest
        == "1d0b6e6a04575efb6a23c04547cbcdf8b432239e34067380a1fd57e7bb3ba2ea"
    )


def test_a_label_is_part_of_the_digest_and_the_order_too(tmp_path: Path) -> None:
    digests = {
        scan(load_data(str(put(tmp_path / name, files)))).digest
        for name, files in {
            "1": {"a/1.png": 1, "b/1.png": 2},
            "2": {"a/1.png": 2, "b/1.png": 1},
            "3": {"a/1.png": 1, "c/1.png": 2},
            "4": {"a/other.png": 1, "b/names.png": 2},
        }.items()
    }
    assert len(digests) == 3


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls = []
    real = scan_module.open_image
    monkeypatch.setattr(scan_module, "open_image", lambda *args: calls.append(1) or real(*args))
    return calls


def test_a_second_scan_decodes_nothing(kinds: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing to the returned pixels does not change the cache."""
    first = scan(kinds, SPEC)
    calls = count_decodes(monkeypatch)
    second = scan(kinds, SPEC)
    assert not calls
    assert second.facts == first.facts
    assert first.pixels is not None
    assert second.pixels is not None
    assert np.array_equal(first.pixels, second.pixels)
    second.pixels[:] = 7
    third = scan(kinds, SPEC)
    assert third.pixels is not None
    assert np.array_equal(first.pixels, third.pixels)


def test_another_file_or_size_is_scanned_anew(
    kinds: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(kinds, SPEC)
    calls = count_decodes(monkeypatch)
    scan(kinds, SPEC.model_copy(update={"background": (0, 0, 0)}))
    assert calls
    calls.clear()
    os.utime(kinds.locations[0], ns=(0, 0))
    scan(load_data(str(Path(kinds.locations[0]).parent.parent)), SPEC)
    assert calls


@pytest.mark.parametrize("name", [ROWS, PIXELS])
@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "removed"])
def test_a_damaged_entry_is_replaced(kinds: ImageSet, cache: Path, name: str, damage: str) -> None:
    """A power cut or a full disk may have damaged it."""
    first = scan(kinds, SPEC)
    (file,) = cache.glob(f"*/{name}")
    content = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(
            {"cut": content[:-5], "changed": content[:-5] + b"00000", "emptied": b""}[damage]
        )
    second = scan(kinds, SPEC)
    assert second.facts == first.facts
    assert np.array_equal(first.pixels, second.pixels)
    assert file.read_bytes() == content
    assert len(list(cache.iterdir())) == 1


def test_a_scan_needs_no_cache(kinds: ImageSet, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"")
    assert scan(kinds, SPEC).facts == scan(kinds, SPEC).facts


def test_pixels_over_the_limit_are_not_kept(
    kinds: ImageSet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The facts are cached all the same."""
    nearly = 13 * 8 * 8 * 3 - 1
    assert scan(kinds, SPEC, max_pixel_bytes=nearly).pixels is None
    assert [file.name for file in cache.glob("*/*")] == [ROWS]
    calls = count_decodes(monkeypatch)
    assert scan(kinds, SPEC, max_pixel_bytes=nearly).pixels is None
    assert not calls
    assert scan(kinds, SPEC, max_pixel_bytes=nearly + 1).pixels is not None


def test_what_lies_in_memory_is_not_cached(cache: Path) -> None:
    """The digits are decoded faster than a file is read."""
    scan(load_data("digits"), SPEC)
    assert not cache.exists()


def test_an_image_too_large_to_serve_is_a_fact_and_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's warnings would break the progress display."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    huge = encoded(Image.new("1", (8000, 8000)))
    data = load_data(str(put(tmp_path / "data", {"a/huge.png": huge, "b/1.png": 1})))
    with warnings.catch_warnings(record=True) as caught:
        facts = scan(data).facts
    assert not caught
    assert "52,428,800" in facts[0].error


def test_progress_is_told_to_the_end() -> None:
    heard: list[tuple[int, int]] = []
    scan(load_data("digits"), progress=lambda done, total: heard.append((done, total)))
    assert heard[-1] == (1797, 1797)
    assert len(heard) > 3
