"""Limits of requests and their images."""

from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, Field

from model_store.image_header import DEFAULT_MAX_PIXELS, FORMATS, PILLOW_MAX_PIXELS
from service.settings.units import MEBIBYTE

_NAMES: Final = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "heif")
_SHORT_NAMES: Final = {"jpg": "jpeg", "tif": "tiff", "heic": "heif"}
_ADVICE: Final = {
    "avif": "this Pillow was built without AVIF",
    "heif": "install the extra: pip install '.[heif]'",
}


def parse_formats(text: str) -> frozenset[str] | None:
    """The formats of a comma-separated list, as in `FORMATS`; None if it is empty.

    Raises:
        ValueError: There is no such format, or it cannot be decoded here.
    """
    names = [name.strip().lower() for name in text.split(",")] if text.strip() else []
    formats = {_SHORT_NAMES.get(name, name).upper() for name in names}
    for name in (each.lower() for each in sorted(formats - set(FORMATS))):
        if name in _ADVICE:
            raise ValueError(f"{name} images cannot be decoded here: {_ADVICE[name]}")
        raise ValueError(f"{name!r} is not an image format; expected {', '.join(_NAMES)}")
    return frozenset(formats) or None


def _check_formats(text: str) -> str:
    parse_formats(text)
    return text


class RequestSettings(BaseModel):
    """How large, how many and how slow requests and images may be."""

    max_body_bytes: Annotated[
        int, Field(ge=1, description="Largest request body in bytes; larger bodies get 413.")
    ] = 32 * MEBIBYTE
    max_upload_bytes: Annotated[
        int,
        Field(
            ge=1,
            description="Bytes of all request bodies in memory at once; requests beyond that "
            "get 429. At most an eighth of the memory.",
        ),
    ] = 256 * MEBIBYTE
    max_pixels: Annotated[
        int,
        Field(
            ge=1,
            le=PILLOW_MAX_PIXELS,
            description="Largest image in pixels, by its header; larger ones get 413. Decoding "
            "takes up to 16 bytes per pixel. Little memory lowers it, see limits.",
        ),
    ] = DEFAULT_MAX_PIXELS
    formats: Annotated[
        str,
        AfterValidator(_check_formats),
        Field(
            description="Comma-separated image formats that are accepted, like jpeg,png. Others "
            f"get 415. Empty: all, which are {', '.join(_NAMES)}; avif and heif only if this "
            "installation decodes them (heif: the extra heif)."
        ),
    ] = ""
    max_images: Annotated[int, Field(ge=1, description="Most images in one request.")] = 64
    max_queue_size: Annotated[
        int,
        Field(
            ge=1,
            description="Most images of a model that are queued or running, over all its "
            "versions; requests beyond that get 429.",
        ),
    ] = 512
    deadline_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="Seconds until an unanswered request gets 504; its queued images are "
            "dropped.",
        ),
    ] = 30.0
    decode_workers: Annotated[
        int | None,
        Field(
            ge=1,
            description="Processes that decode images, and half as many for large ones. "
            "Unset: the container's CPUs, or fewer if memory is short.",
        ),
    ] = None
