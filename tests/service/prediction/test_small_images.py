"""Which images are decoded in the event loop."""

import pytest
from colour_model import PREPROCESSING, encode, plain
from pictures import encoded, picture, png_chunk
from PIL import Image

from model_store.jpeg_markers import count_scans
from model_store.manifest import Letterbox, Preprocessing
from service.prediction.decode_pool import INLINE_BYTES, DecodePool, is_small
from service.prediction.decoder import DecoderLimits

LIMITS = DecoderLimits(max_pixels=10**7)
PNG = plain("red")


@pytest.mark.parametrize(
    ("image", "in_event_loop"),
    [
        (plain("red", "PNG"), True),
        (plain("red", "JPEG"), True),
        (plain("red", "PNG", (300, 300)), False),
        (plain("red", "JPEG", (300, 300)), False),
        *((plain("red", image_format), False) for image_format in ("GIF", "BMP", "TIFF", "WEBP")),
        (encode(Image.new("RGB", (1, 16_000)), "PNG"), False),
        (encoded(picture(1, 120, 120)), False),
    ],
    ids=["png", "jpeg", "large png", "large jpeg", "gif", "bmp", "tiff", "webp", "thin", "bytes"],
)
def test_only_small_png_and_jpeg_images_are_decoded_in_the_event_loop(
    image: bytes, in_event_loop: bool
) -> None:
    """Bounded in bytes and pixels."""
    assert (DecodePool(1, LIMITS).decode_small(image, PREPROCESSING) is not None) == in_event_loop


@pytest.mark.parametrize(
    ("size", "in_event_loop"), [((128, 128), True), ((129, 128), False), ((128, 129), False)]
)
@pytest.mark.parametrize("resized", [True, False], ids=["resized", "of the model's size"])
def test_image_is_decoded_in_the_event_loop_up_to_its_pixels(
    size: tuple[int, int], in_event_loop: bool, resized: bool
) -> None:
    """Whether the model takes them as they are or not."""
    width, height = (8, 8) if resized else size
    spec = Preprocessing(resize_mode="exact", resize=1, crop_width=width, crop_height=height)
    decoded = DecodePool(1, LIMITS).decode_small(plain("red", size=size), spec)
    assert (decoded is not None) == in_event_loop


@pytest.mark.parametrize(("side", "in_event_loop"), [(128, True), (129, False)])
def test_padding_of_a_letterbox_counts_as_pixels(side: int, in_event_loop: bool) -> None:
    """A thin image is small, but the canvas around it is not."""
    spec = Preprocessing(
        resize=side,
        crop_height=side,
        crop_width=side,
        resize_mode="letterbox",
        letterbox=Letterbox(padding=(1, 2, 3)),
    )
    decoded = DecodePool(1, LIMITS).decode_small(plain("red", size=(200, 2)), spec)
    assert (decoded is not None) == in_event_loop


@pytest.mark.parametrize(
    ("image", "small"),
    [
        (PNG + bytes(INLINE_BYTES - len(PNG)), True),
        (PNG + bytes(INLINE_BYTES - len(PNG) + 1), False),
        (bytes(INLINE_BYTES + 1), True),
        *(
            (PNG[:33] + png_chunk(kind, b"Comment\0\0") + PNG[33:], kind == b"tEXt")
            for kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
        ),
    ],
    ids=["largest", "too large", "no image", "tEXt", "zTXt", "iTXt", "iCCP"],
)
def test_png_is_small_by_its_bytes_and_its_chunks(image: bytes, small: bool) -> None:
    """Chunks that are inflated when the file is opened could be large."""
    assert is_small(image) == small


@pytest.mark.parametrize(("scans", "small"), [(20, True), (21, False)])
def test_jpeg_is_small_by_its_scans(scans: int, small: bool) -> None:
    """Each scan is a pass over all pixels."""
    data = encoded(picture(1), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    repeated = data[:-2] + data[last:-2] * (scans - count_scans(data)) + data[-2:]
    assert count_scans(repeated, enough=0) == scans
    assert is_small(repeated) == small
