"""Limits of requests and their images."""

from typing import Annotated

from pydantic import BaseModel, Field

from model_store.image_header import DEFAULT_MAX_PIXELS, PILLOW_MAX_PIXELS
from service.settings.units import MEBIBYTE


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
