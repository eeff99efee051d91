"""Rejects images that Pillow decodes wrongly, and corrects palettes and transparency.

`tests/model_store/test_*_layouts.py` reproduces every fault. Layouts that Pillow cannot open at all
are also listed here, so that they are not reported as damaged.
"""

import io
import operator
import struct
from typing import Final

from PIL import Image, ImagePalette, TiffImagePlugin

from model_store.errors import ImageUnsupportedError
from model_store.jpeg_markers import frame_header

_TIFF_RAW: Final = 1
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_RAW_PLANES: Final = frozenset(
    {(_BLACK_IS_ZERO, ()), (_PALETTE, ()), (_RGB, ()), (_RGB, (2,)), (_CMYK, ())}
)
"""Uncompressed planes that Pillow reads: (photometric interpretation, extra samples)."""
_BMP_OS2_HEADER: Final = 64
_BMP_ALPHA_HEADER: Final = 56
"""Headers of at least this many bytes have a mask for alpha."""
_BMP_BITFIELDS: Final = 3
_PNG_GREY, _PNG_RGB = 0, 2


def check_layout(image: Image.Image, data: bytes) -> None:
    """Correct an opened image that Pillow reads wrongly, or reject it.

    Args:
        image: The image, opened and not decoded. Its transparency or palette may be changed.
        data: The file.

    Raises:
        ImageUnsupportedError: Pillow would decode other pixels than the file describes.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        if problem := _tiff_problem(image.tag_v2):
            raise _unsupported("TIFF", problem)
        _correct_tiff_palette(image)
    elif image.format == "BMP":
        _check_bmp(image, data)
    elif image.format == "PNG" and "transparency" in image.info:
        _correct_png_transparency(image, data)


def explain_unreadable(
    kind: str, data: bytes, error: BaseException
) -> ImageUnsupportedError | None:
    """The error for an image whose layout Pillow does not know; None if the data is damaged.

    Args:
        kind: The format.
        data: The file.
        error: What Pillow raised.
    """
    problem = None
    if kind in {"JPEG", "MPO"}:
        problem = _jpeg_problem(data)
    elif kind == "TIFF":
        problem = _unreadable_tiff_problem(data)
    elif kind == "BMP" and str(error).startswith("Unsupported BMP"):
        problem = f"this {str(error).removeprefix('Unsupported BMP ')}"
    return _unsupported(kind, problem) if problem else None


def _unsupported(kind: str, problem: str) -> ImageUnsupportedError:
    return ImageUnsupportedError(
        f"{kind} images with {problem} are not supported; convert the image to an 8-bit PNG"
    )


def _unreadable_tiff_problem(data: bytes) -> str | None:
    """Why Pillow cannot open a TIFF whose directory is complete."""
    try:
        with io.BytesIO(data) as file:
            is_big = data[2] == 43  # as Pillow detects it
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if is_big else 8))
            start = tags.next
            file.seek(start)
            tags.load(file)
        number = ("<" if data[:2] == b"II" else ">") + ("Q" if is_big else "H")
        # Pillow leaves out tags whose values lie beyond the end of the file.
        if len(tags) != struct.unpack_from(number, data, start)[0]:
            return None
        if not all(tag in tags for tag in (256, 257)):
            return None
        offsets, sizes = ((273, 279), (324, 325))[324 in tags]
        ends = map(operator.add, tags[offsets], tags[sizes])
        if max(ends) > len(data):
            return None
        bits = tags.get(258, (1,))
        return _tiff_problem(tags) or (
            f"photometric interpretation {tags.get(262)!s:.20}, {bits!s:.40} bits per sample and "
            f"compression {tags.get(259, 1)!s:.20}"
        )
    except Exception:  # noqa: BLE001  a damaged directory raises exceptions of any kind
        return None


def _tiff_problem(tags: TiffImagePlugin.ImageFileDirectory_v2) -> str | None:
    """What Pillow decodes wrongly in a TIFF, by its tags (TIFF 6.0)."""
    bits, compression = set(tags.get(258, (1,))), tags.get(259, 1)
    photometric, extra_samples = tags.get(262, 0), tuple(tags.get(338, ()))
    if formats := set(tags.get(339, ())) - {1, 4}:
        names = {2: "signed", 3: "floating-point"}
        return f"{names.get(min(formats), 'complex')} samples"
    if len(bits) > 1 or not bits <= {1, 2, 4, 8, 16}:
        return f"{', '.join(map(str, sorted(bits)))} bits per sample"
    if photometric == _WHITE_IS_ZERO and bits == {16}:
        return "16-bit samples where 0 is white"
    is_raw = compression == _TIFF_RAW
    if tags.get(284, 1) == 2:  # a plane for each sample
        is_readable = bits == {8} and tags.get(266, 1) == 1
        if is_raw and not (is_readable and (photometric, extra_samples) in _RAW_PLANES):
            return "uncompressed planes"
        if photometric not in {_RGB, _CMYK} and set(extra_samples) & {1, 2}:
            return "transparency in a separate plane"
    if photometric == _YCBCR and is_raw and tuple(tags.get(530, (2, 2))) != (1, 1):
        return "uncompressed, subsampled colours"
    return None


def _correct_tiff_palette(image: TiffImagePlugin.TiffImageFile) -> None:
    """Read palettes with values below 256 as 8-bit, as libtiff does; some programs write them."""
    if image.mode in {"P", "PA"}:
        colours = image.tag_v2[320]
        if max(colours) < 256:
            image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def _check_bmp(image: Image.Image, data: bytes) -> None:
    header_size = int.from_bytes(data[14:18], "little")
    if header_size == 12:
        bits, compression = int.from_bytes(data[24:26], "little"), 0
    else:
        bits, compression = struct.unpack_from("<HI", data, 28)
    has_masks = compression == _BMP_BITFIELDS
    if header_size == _BMP_OS2_HEADER and has_masks:
        raise _unsupported("BMP", "Huffman compression")
    # For a grey palette Pillow reads the indices as pixels: 4 bits as 8, 8 bits as 1.
    if bits < 16 and bits != {"1": 1, "L": 8}.get(image.mode, bits):
        raise _unsupported("BMP", f"a short grey palette and {bits} bits per pixel")
    if bits == 16 and has_masks and header_size >= _BMP_ALPHA_HEADER and any(data[66:70]):
        raise _unsupported("BMP", "16 bits per pixel and transparency")


def _correct_png_transparency(image: Image.Image, data: bytes) -> None:
    """Give the transparent colour the range of the decoded pixels (PNG, 11.3.2.1 tRNS)."""
    depth, colour_type = data[24:26]
    transparent = image.info["transparency"]
    if colour_type == _PNG_RGB and depth == 16:
        raise _unsupported("PNG", "16-bit colours and a transparent colour")
    if colour_type == _PNG_GREY and depth in {2, 4, 8}:
        levels = 2**depth - 1
        image.info["transparency"] = (transparent & levels) * 255 // levels


def _jpeg_problem(data: bytes) -> str | None:
    frame = frame_header(data)
    if frame is None:
        return None
    if frame.bits != 8:
        return f"{frame.bits} bits per sample"
    if frame.components not in {1, 3, 4}:
        return f"{frame.components} components"
    return None if frame.is_decoded else "lossless or hierarchical compression"
