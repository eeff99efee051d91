"""Python client of the image classification service Resident.

::

    from resident_client import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.predict("photo.jpg").label)
"""

from resident_client.async_client import AsyncClient
from resident_client.client import Client
from resident_client.errors import (
    ConnectionFailedError,
    ImageInputError,
    ResidentError,
    ResponseError,
)
from resident_client.images import ImageInput
from resident_client.options import EmbedOptions, PredictOptions
from resident_client.results import Embedding, ImageFailure, Prediction, Result

__all__ = [
    "AsyncClient",
    "Client",
    "ConnectionFailedError",
    "EmbedOptions",
    "Embedding",
    "ImageFailure",
    "ImageInput",
    "ImageInputError",
    "PredictOptions",
    "Prediction",
    "ResidentError",
    "ResponseError",
    "Result",
]
