"""The golden proof: what passes, and that each half fails in its own words."""

import errno
import io
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image
from store_factory import (
    CLASS_NAMES,
    PREPROCESSING,
    SIZE,
    TOLERANCE,
    WEIGHTS,
    encode,
    npy,
    oriented,
    plain_fields,
    proven_version,
    publish_plain,
    publish_proven,
    scene,
)
from tiny_model import tiny_model_bytes

from model_store import golden
from model_store.errors import (
    DecodeProofError,
    FileAlteredError,
    ManifestError,
    NumericsProofError,
    ProofError,
    StoreUnreadableError,
)
from model_store.image_header import open_image
from model_store.manifest import DecodeTolerance, Golden, Preprocessing
from model_store.preprocessing import Pixels, crop, load_pixels, orient, prepare, resize, to_rgb
from model_store.session import Session
from model_store.store import ModelStore

PIXELS = "golden/turned.png.npy"


def prove(store: ModelStore, fields: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Seal the version, so that its files are whole, open it and run the proof."""
    with store.open("m", store.publish("m", fields, files)) as version:
        manifest = version.manifest
        golden.prove(version, Session(version.path("model.onnx"), manifest.input, manifest.outputs))


def test_a_version_that_answers_as_in_training_passes(store: ModelStore) -> None:
    """Images decode to the stored pixels, and these give the stored logits."""
    prove(store, *proven_version())


def test_an_unproven_version_has_nothing_to_fail(store: ModelStore) -> None:
    """A version without golden images passes: its manifest says that it is unproven."""
    prove(store, plain_fields(), {"model.onnx": tiny_model_bytes(SIZE, SIZE, WEIGHTS)})


def test_a_precision_that_is_not_there_is_no_proof(store: ModelStore) -> None:
    """Proving a variant that the version lacks is a ManifestError."""
    publish_proven(store)
    with store.open("m", 1) as version:
        session = Session(
            version.path("model.onnx"), version.manifest.input, version.manifest.outputs
        )
        with pytest.raises(ManifestError, match="no fp16 variant"):
            golden.prove(version, session, "fp16")


def stored_pixels() -> np.ndarray:
    return np.load(io.BytesIO(proven_version()[1][PIXELS]))


def one_pixel_off() -> bytes:
    pixels = stored_pixels()
    pixels[3, 4, 1] ^= 128
    return npy(pixels)


def array_header(shape: tuple[int, ...]) -> bytes:
    """The first bytes of an array of this shape, without its values."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, stored_pixels())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("path", "data", "words"),
    [
        (PIXELS, one_pixel_off(), "128 and"),
        (PIXELS, npy(stored_pixels() ^ 1), r"1 and 1\.000.*2 and 0\.25"),
        (PIXELS, npy(stored_pixels().astype(np.float32)), "holds float32"),
        (PIXELS, npy(stored_pixels()[:-1]), r"holds uint8 \(7, 8, 3\), expected uint8 \(8, 8, 3\)"),
        (PIXELS, npy(stored_pixels()[..., 0]), "holds uint8"),
        (PIXELS, npy(np.array([{}]), allow_pickle=True), "holds object"),
        (PIXELS, npy(stored_pixels())[:-1], "holds 191 values"),
        (PIXELS, array_header((10**15, 8, 3)), r"holds uint8 \(1000000000000000, 8, 3\)"),
        (PIXELS, b"", "not a NumPy array"),
        (PIXELS, b"not an array", "not a NumPy array"),
        (PIXELS, npz(), "not a NumPy array"),
        ("golden/turned.png", b"not an image", "does not decode"),
        ("golden/turned.png", encode(scene(), "PNG")[:60], "does not decode"),
        ("golden/turned.png", encode(scene().rotate(180), "PNG"), "other pixels"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_other_images_or_pixels_fail_the_decode_proof(
    path: str, data: bytes, words: str, store: ModelStore
) -> None:
    """The error names the file, although the version was sealed with it."""
    fields, files = proven_version()
    with pytest.raises(DecodeProofError, match=words) as caught:
        prove(store, fields, {**files, path: data})
    assert "golden/turned.png" in str(caught.value)


def with_logits(change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """The fields of a proven version whose last golden image has other logits."""
    fields, _ = proven_version()
    first, last = fields["golden"]
    logits = tuple(change(np.array(last.logits)).tolist())
    return fields | {"golden": (first, last.model_copy(update={"logits": logits}))}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda logits: logits + np.array([0, 0, 2 * TOLERANCE]),
            r"0\.002.*0\.001",
        ),
        (lambda logits: logits - np.array([5, 0, 0]), "by 5"),
        (lambda logits: logits[::-1], "training"),
    ],
)
def test_other_logits_fail_the_numerics_proof(
    change: Callable[[np.ndarray], np.ndarray], words: str, store: ModelStore
) -> None:
    """The error names image, precision and difference."""
    with pytest.raises(NumericsProofError, match=f"golden/turned.png.*fp32.*{words}"):
        prove(store, with_logits(change), proven_version()[1])


def test_logits_within_the_tolerance_pass(store: ModelStore) -> None:
    """A difference below the tolerance is accepted."""
    prove(
        store,
        with_logits(lambda logits: logits + np.array([TOLERANCE / 2, 0, -TOLERANCE / 2])),
        proven_version()[1],
    )


def wide(fields: dict[str, Any], *golden_logits: tuple[float, ...]) -> dict[str, Any]:
    """The same fields with a tolerance that accepts any logits, and own golden logits."""
    (variant,) = fields["variants"]
    return fields | {
        "variants": (
            variant.model_copy(update={"tolerance": 100.0, "golden_logits": golden_logits}),
        )
    }


def test_a_clear_top1_must_not_change_whatever_the_tolerance(store: ModelStore) -> None:
    """It is clear where training's top-1 is half a probability ahead."""
    other = wide(with_logits(lambda logits: np.roll(logits, 1)))
    with pytest.raises(
        NumericsProofError,
        match=r"turned.png.*fp32.*'red'.*'green'",
    ):
        prove(store, other, proven_version()[1])
    prove(store, wide(with_logits(lambda logits: np.roll(logits, 1) / 100)), proven_version()[1])


def test_a_variant_is_compared_with_its_own_logits(store: ModelStore) -> None:
    """Training's logits may then differ by more than the tolerance."""
    fields, files = proven_version()
    (variant,) = fields["variants"]
    apart = with_logits(lambda logits: logits + 10 * TOLERANCE)
    own = tuple(block.logits for block in fields["golden"])
    prove(store, apart | {"variants": (variant.model_copy(update={"golden_logits": own}),)}, files)
    moved = (own[0], tuple(logit + 2 * TOLERANCE for logit in own[1]))
    with pytest.raises(NumericsProofError, match="fp32 logits"):
        prove(
            store,
            fields | {"variants": (variant.model_copy(update={"golden_logits": moved}),)},
            files,
        )


@pytest.mark.parametrize(
    "weights",
    [
        WEIGHTS[::-1],
        WEIGHTS * 1.01,
        np.zeros_like(WEIGHTS),
        np.full_like(WEIGHTS, np.nan),
        np.full_like(WEIGHTS, np.inf),
    ],
    ids=["swapped channels", "1 % off", "zeros", "NaN", "infinity"],
)
def test_another_model_fails_the_numerics_half(weights: np.ndarray, store: ModelStore) -> None:
    """Although its file is intact. NaN fails too."""
    with pytest.raises(NumericsProofError):
        prove(store, *proven_version(weights))


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_a_model_with_another_number_of_classes_fails(classes: int, store: ModelStore) -> None:
    """With no other exception."""
    weights = np.resize(WEIGHTS, (3, classes))
    assert classes != len(CLASS_NAMES)
    with pytest.raises(ProofError):
        prove(store, *proven_version(np.ascontiguousarray(weights)))


def swapped_channels(data: bytes, spec: Preprocessing) -> Pixels:
    return prepare(data, spec)[..., ::-1]


def ignored_orientation(data: bytes, spec: Preprocessing) -> Pixels:
    image = open_image(data, spec)
    load_pixels(image)
    return crop(resize(to_rgb(image, spec.background), spec), spec)


def another_interpolation(data: bytes, spec: Preprocessing) -> Pixels:
    return prepare(data, spec.model_copy(update={"interpolation": "nearest"}))


def another_background(data: bytes, spec: Preprocessing) -> Pixels:
    return prepare(data, spec.model_copy(update={"background": (0, 0, 0)}))


def shifted_crop(data: bytes, spec: Preprocessing) -> Pixels:
    image = open_image(data, spec)
    load_pixels(image)
    return crop(resize(to_rgb(orient(image), spec.background), spec), spec, offset=1)


def transparent_scene() -> Image.Image:
    image = scene()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize(
    "mistake",
    [
        swapped_channels,
        ignored_orientation,
        another_interpolation,
        another_background,
        shifted_crop,
    ],
)
def test_each_mistake_in_preprocessing_breaks_the_proof(mistake: golden.Prepare) -> None:
    """Channel order, EXIF, interpolation, background, crop: each is noticed."""
    data = encode(transparent_scene(), "PNG", **oriented(scene(), 6))
    block = Golden(
        image="a.png",
        pixels="a.npy",
        decode_tolerance=DecodeTolerance(max_abs=4, mean_abs=1),
        logits=(0.0, 0.0, 0.0),
    )
    pixels = prepare(data, PREPROCESSING)
    golden.check_decode(data, pixels, block, PREPROCESSING)
    with pytest.raises(DecodeProofError):
        golden.check_decode(data, pixels, block, PREPROCESSING, mistake)


def test_a_decoder_of_another_shape_is_seen() -> None:
    """Pixels of another shape than the stored ones are a DecodeProofError that shows both."""
    data = encode(scene(), "PNG")
    block = Golden(
        image="a.png",
        pixels="a.npy",
        decode_tolerance=DecodeTolerance(max_abs=255, mean_abs=255),
        logits=(0.0,),
    )
    with pytest.raises(DecodeProofError, match=r"a.png.*\(8, 8, 3\).*\(8, 7, 3\)"):
        golden.check_decode(data, prepare(data, PREPROCESSING)[:, :-1], block, PREPROCESSING)


def test_the_proof_does_not_look_at_another_version(store: ModelStore) -> None:
    """Each version has its own golden images."""
    publish_proven(store)
    publish_plain(store)
    for number in (1, 2):
        with store.open("m", number) as version:
            assert len(version.manifest.golden) == (2 if number == 1 else 0)


def test_unreadable_pixels_are_not_a_failed_proof(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is about the disk and holds no path: the proof may pass the next time."""
    fields, files = proven_version()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(store.root))

    with store.open("m", store.publish("m", fields, files)) as version:
        monkeypatch.setattr("model_store.version.open_regular_below", fail)
        with pytest.raises(StoreUnreadableError, match=r"Input/output error$") as caught:
            golden.load_pixels(version, version.manifest.golden[0])
        assert str(store.root) not in str(caught.value)


def test_pixels_altered_after_the_verification_are_noticed(store: ModelStore) -> None:
    """The proof compares with the sealed bytes, not with what has taken their place."""
    fields, files = proven_version()
    with store.open("m", store.publish("m", fields, files)) as version:
        golden_image = version.manifest.golden[0]
        for name in (golden_image.pixels, golden_image.image):
            version.path(name).write_bytes(files[PIXELS])
        with pytest.raises(FileAlteredError):
            golden.load_pixels(version, golden_image)
        with pytest.raises(FileAlteredError):
            golden.prove_decode(version, golden_image)
