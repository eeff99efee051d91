"""A decoder process keeps its limits of memory and CPU time, and dies with the service."""

import asyncio
import os
import signal
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from colour_model import PREPROCESSING, encode, plain
from hostile_images import (
    ALLOCATES,
    CRASHES,
    LOOPS,
    LOSES_MEMORY_ERROR,
    hostile,
    hostile_environment,
)
from image_bombs import BOMBS, MEBIBYTE
from pictures import picture
from PIL import Image

from model_store.errors import (
    ImageCorruptError,
    ImageError,
    ImageTooExpensiveError,
    ImageTruncatedError,
    TooManyPixelsError,
)
from model_store.heif import load_heif_plugin
from model_store.image_header import FORMATS, open_image
from model_store.manifest import Letterbox, Preprocessing
from model_store.preprocessing import prepare
from service.prediction.decoder import (
    Decoder,
    DecoderLimits,
    DecoderStartError,
    TooCostlyError,
    death_error,
    decode_memory,
)

pytestmark = pytest.mark.anyio
LIMITS = DecoderLimits(max_pixels=10**6, cpu_seconds=2)
MAX_COST = 10.0**6
MEMORY = 64 * MEBIBYTE
KEPT_BYTES = 40 * MEBIBYTE


@asynccontextmanager
async def decoder(limits: DecoderLimits = LIMITS) -> AsyncIterator[Decoder]:
    process = await Decoder.start(limits)
    try:
        yield process
    finally:
        await process.end()


async def test_pixels_are_those_of_prepare() -> None:
    """For several formats, modes and specs, one after the other in one process."""
    transparent = Image.new("RGBA", (300, 200), (255, 0, 0, 100))
    specs = (
        Preprocessing(resize=64, crop_height=56, crop_width=60, background=(1, 2, 3)),
        Preprocessing(
            resize=32, crop_height=30, crop_width=32, resize_mode="exact", interpolation="bicubic"
        ),
        Preprocessing(resize=(40, 90), crop_height=36, crop_width=80),
        Preprocessing(resize=(48, 40), crop_height=44, crop_width=40, resize_mode="exact"),
        Preprocessing(
            resize=(48, 40),
            crop_height=44,
            crop_width=40,
            resize_mode="letterbox",
            letterbox=Letterbox(padding=(1, 2, 3)),
        ),
    )
    async with decoder() as process:
        for image, image_format in (
            (picture(1, 400, 300), "JPEG"),
            (transparent, "PNG"),
            (picture(2, 200, 300), "WEBP"),
            (picture(3, 200, 300), "TIFF"),
            (picture(4, 70, 80).convert("P"), "GIF"),
        ):
            data = encode(image, image_format)
            for spec in specs:
                pixels = (await process.decode(data, spec, MAX_COST, MEMORY)).pixels
                assert np.array_equal(pixels, prepare(data, spec)), image_format


async def test_errors_of_an_image_are_those_of_prepare() -> None:
    """The class and the message; the process goes on."""
    data = plain("red", "JPEG", (300, 300))[:-200]
    with pytest.raises(ImageTruncatedError) as expected:
        prepare(data, PREPROCESSING)
    async with decoder() as process:
        for _ in range(2):
            with pytest.raises(ImageTruncatedError) as caught:
                await process.decode(data, PREPROCESSING, MAX_COST, MEMORY)
            assert str(caught.value) == str(expected.value)
        assert not process.ended


async def test_fault_of_the_program_is_no_error_of_the_image() -> None:
    """For instance a spec that nothing validated; the process goes on."""
    incomplete = Preprocessing.model_construct(crop_height=8, crop_width=8)
    async with decoder() as process:
        with pytest.raises(RuntimeError, match="resize"):
            await process.decode(plain("red"), incomplete, MAX_COST, MEMORY)
        assert (await process.decode(plain("red"), PREPROCESSING, MAX_COST, MEMORY)).pixels.any()


async def test_large_body_is_read_within_the_memory_of_its_own_image() -> None:
    """Not of the image before it. If that is not enough, the image takes too much memory."""
    large = plain("red") + bytes(110_000_000)
    async with decoder() as process:
        for image in (plain("red"), large, plain("red")):
            memory = decode_memory(64, len(image))
            assert (await process.decode(image, PREPROCESSING, MAX_COST, memory)).pixels.any()
        with pytest.raises(EOFError):
            await process.decode(large, PREPROCESSING, MAX_COST, decode_memory(64, 0))
        assert type(death_error(await process.end())) is ImageTooExpensiveError


async def test_padding_of_a_letterbox_counts_towards_the_cost() -> None:
    """A thin image becomes a large canvas, whichever side is long."""
    spec = Preprocessing(
        resize=900,
        crop_height=900,
        crop_width=900,
        resize_mode="letterbox",
        letterbox=Letterbox(padding=(1, 2, 3)),
    )
    async with decoder() as process:
        for size in ((2000, 10), (10, 2000)):
            image, cost = plain("red", "JPEG", size), 900 * 900
            with pytest.raises(TooCostlyError) as caught:
                await process.decode(image, spec, cost - 1, MEMORY)
            assert (caught.value.cost, caught.value.pixels) == (cost, cost)
            assert (
                await process.decode(image, spec, cost, decode_memory(cost, 10_000))
            ).pixels.any()


async def test_image_that_costs_too_much_is_not_decoded() -> None:
    """The cost is the pixels of the image, or of its resized form if that has more."""
    async with decoder() as process:
        for size, cost in (((400, 300), 120_000), ((4, 4000), 8 * 8000)):
            with pytest.raises(TooCostlyError) as caught:
                await process.decode(plain("red", size=size), PREPROCESSING, cost - 1, MEMORY)
            assert (caught.value.cost, caught.value.pixels) == (cost, cost)
            assert (
                await process.decode(plain("red", size=size), PREPROCESSING, cost, MEMORY)
            ).pixels.any()


@pytest.mark.parametrize(
    ("size", "error"),
    [
        (LOOPS, ImageTooExpensiveError),
        (ALLOCATES, ImageTooExpensiveError),
        (CRASHES, ImageCorruptError),
        (LOSES_MEMORY_ERROR, ImageTooExpensiveError),
    ],
    ids=["loops", "allocates", "crashes", "loses the MemoryError"],
)
@pytest.mark.usefixtures("hostile_codec")
async def test_hostile_image_ends_its_process(
    size: tuple[int, int], error: type[Exception]
) -> None:
    """The kernel limits CPU time and memory; a crash is a crash of the decoder alone."""
    async with decoder() as process:
        assert (await process.decode(plain("red"), PREPROCESSING, MAX_COST, MEMORY)).pixels.any()
        with pytest.raises(EOFError):
            await process.decode(hostile(size), PREPROCESSING, MAX_COST, MEMORY)
        assert type(death_error(await process.end())) is error


@pytest.mark.usefixtures("hostile_codec")
async def test_cpu_time_is_limited_per_image() -> None:
    """A process that has used more than the limit in all decodes further images."""
    async with decoder() as process:
        data = encode(picture(1, 1000, 1000))
        while cpu_seconds(process) <= LIMITS.cpu_seconds + 0.2:
            await process.decode(data, PREPROCESSING, MAX_COST, MEMORY)


@pytest.mark.parametrize(
    "name",
    [
        "jpeg_exif_segments",
        "jpeg_empty_segments",
        "gif_comments",
        "tiff_strips",
        "tiff_tile",
        "tiff_overlapping_values",
    ],
)
async def test_bomb_that_no_check_knows_costs_at_most_the_limits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the checks of the structure, the process ends or refuses the image."""
    for variable, value in hostile_environment(tmp_path, unchecked=True).items():
        monkeypatch.setenv(variable, value)
    async with decoder() as process:
        idle = kibibytes(process, "VmSize")
        with pytest.raises((EOFError, ImageError)) as caught:
            await process.decode(BOMBS[name](16 * MEBIBYTE), PREPROCESSING, MAX_COST, MEMORY)
        if issubclass(caught.type, EOFError):
            assert type(death_error(await process.end())) is ImageTooExpensiveError
        else:
            assert kibibytes(process, "VmPeak") - idle <= MEMORY / 1024


def kibibytes(process: Decoder, field: str) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition(field + ":")[2].split()[0])


def cpu_seconds(process: Decoder) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("WEBP", {"lossless": True, "method": 0, "quality": 0}),
        ("PNG", {"compress_level": 1}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("JPEG", {"progressive": True}),
        *((("AVIF", {"speed": 10}),) if "AVIF" in FORMATS else ()),
        *((("HEIF", {"chroma": 444}),) if "HEIF" in FORMATS else ()),
    ],
)
async def test_largest_real_images_keep_the_limits(
    image_format: str, options: dict[str, object], tmp_path: Path
) -> None:
    """`decode_memory` is enough, even without the part for blocks that malloc keeps."""
    if image_format == "HEIF":
        load_heif_plugin()
    side = 3000
    mode = "RGB" if image_format == "JPEG" else "RGBA"
    Image.new(mode, (side, side), "red").save(tmp_path / "large", image_format, **options)
    data = (tmp_path / "large").read_bytes()
    memory = decode_memory(side**2, len(data)) - KEPT_BYTES
    async with decoder(DecoderLimits(side**2)) as process:
        assert (await process.decode(data, PREPROCESSING, np.inf, memory)).pixels.shape == (8, 8, 3)


@pytest.mark.skipif("HEIF" not in FORMATS, reason="needs the extra heif")
async def test_code_for_heic_does_not_count_as_memory_of_an_image() -> None:
    """Neither of the first one, nor of other images in the same process."""
    load_heif_plugin()
    side = 3000
    heic = encode(picture(1, 64, 64), "HEIF")
    large = encode(Image.new("RGBA", (side, side), "red"), "WEBP", lossless=True, method=0)
    async with decoder(DecoderLimits(side**2)) as process:
        for image, pixels in ((heic, 64 * 64), (large, side**2), (heic, 64 * 64)):
            memory = decode_memory(pixels, len(image)) - KEPT_BYTES
            assert (await process.decode(image, PREPROCESSING, np.inf, memory)).pixels.any()


@pytest.mark.skipif("HEIF" not in FORMATS, reason="needs the extra heif")
async def test_heic_that_is_larger_than_it_states_takes_too_much_memory() -> None:
    """Its size is that of a small part, which is cut out after decoding."""
    load_heif_plugin()
    data = bytearray(encode(Image.new("RGB", (4000, 4001), "red"), "HEIF"))
    clean_aperture = data.index(b"clap") + 4
    data[clean_aperture : clean_aperture + 16] = struct.pack(">4I", 64, 1, 64, 1)
    data = bytes(data)
    assert open_image(data, PREPROCESSING).size == (64, 64)
    async with decoder() as process:
        with pytest.raises((ImageTooExpensiveError, EOFError)) as caught:
            await process.decode(data, PREPROCESSING, MAX_COST, decode_memory(64 * 64, len(data)))
        if caught.type is EOFError:
            assert type(death_error(await process.end())) is ImageTooExpensiveError


@pytest.mark.parametrize("lossless", [True, False])
async def test_large_webp_is_not_opened_to_find_its_cost(lossless: object) -> None:
    """Opening it would allocate its canvas, which is more than a small image may use."""
    data = encode(Image.new("RGB", (7900, 6400), "red"), "WEBP", lossless=lossless, method=0)
    small = decode_memory(10**6, len(data))
    async with decoder(DecoderLimits(7900 * 6400)) as process:
        with pytest.raises(TooCostlyError) as caught:
            await process.decode(data, PREPROCESSING, MAX_COST, small)
        assert caught.value.pixels == 7900 * 6400
    async with decoder() as process:
        with pytest.raises(TooManyPixelsError):
            await process.decode(data, PREPROCESSING, MAX_COST, small)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
async def test_kernel_kills_a_decoder_before_the_service() -> None:
    """If the memory runs out."""
    async with decoder() as process:
        assert oom_score(process) == 1000


def oom_score(process: Decoder) -> int:
    return int(Path(f"/proc/{process.pid}/oom_score_adj").read_text())


async def test_process_ignores_signals_that_end_the_service() -> None:
    """A supervisor sends SIGTERM to all processes of a service; its requests must still end."""
    async with decoder() as process:
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(process.pid, number)
        assert (await process.decode(plain("red"), PREPROCESSING, MAX_COST, MEMORY)).pixels.any()


async def test_process_ends_when_the_connection_is_closed() -> None:
    """A service that was killed leaves no process behind."""
    process = await Decoder.start(LIMITS)
    process._writer.close()
    assert await process._process.wait() == 0


async def test_process_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the program is missing or ends early."""
    monkeypatch.setattr("sys.executable", "/no/python")
    with pytest.raises(DecoderStartError):
        await Decoder.start(LIMITS)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(DecoderStartError):
        await Decoder.start(LIMITS)


@pytest.mark.usefixtures("hostile_codec")
async def test_cancelled_start_leaves_no_process() -> None:
    """A start that nobody waits for is undone."""
    start = asyncio.create_task(Decoder.start(LIMITS))
    await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
