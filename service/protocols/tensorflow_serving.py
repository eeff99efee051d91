"""TensorFlow Serving's and KServe's first protocol: `{"instances": [{"b64": "…"}]}`.

Source: https://www.tensorflow.org/tfx/serving/api_rest, in the row format. KServe's batcher joins
the instances of several requests, so the predictions are as many and in the same order.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Annotated, Any, Final

import orjson
from pydantic import ConfigDict, Discriminator, Field, Tag

from model_store.aliases import is_alias_name
from model_store.validation import DeferredModel
from service.engine.classification import Classification
from service.engine.loaded_version import LoadedVersion
from service.engine.priority import INTERACTIVE, Priority
from service.errors import BadRequestError, check_image_count, shorten
from service.http.dialect import VersionTarget, path_target
from service.http.json_body import RED_PIXEL, JsonImage, decode_image, load_json
from service.http.problem_details import Reply
from service.http.request_body import INLINE_BYTES
from service.prediction.embedding_response import MAX_NUMBERS_IN_EVENT_LOOP
from service.prediction.request import EncodedImage, ImageOutcome, PredictRequest, RequestRecord
from service.protocols.open_inference.errors import error_reply
from service.protocols.open_inference.outputs import read_results

PATHS: Final = {
    "/v1/models/{model}:predict": ("predict_instances", "Predict with a model"),
    "/v1/models/{model}/versions/{version}:predict": (
        "predict_instances_version",
        "Predict with one version",
    ),
    "/v1/models/{model}/labels/{label}:predict": (
        "predict_instances_label",
        "Predict with the version of an alias",
    ),
}
"""By path: the id and the summary of the operation. A label of TensorFlow Serving is an alias."""
_ROUTE: Final = re.compile(
    r"/v1/models/(?P<model>[^/]+)"
    r"(?:/versions/(?P<version>[^/]+)|/labels/(?P<label>[^/]+))?:predict"
)
_EXPECTED: Final = 'expected {"instances": [{"b64": "..."}]}'


def _kind_of_instance(value: object) -> str:
    return "image" if isinstance(value, dict) and "b64" in value else "named"


class InstancesBody(DeferredModel):
    """A request in the row format. Other fields, like `signature_name`, are ignored."""

    model_config = ConfigDict(json_schema_extra={"example": {"instances": [{"b64": RED_PIXEL}]}})

    instances: Annotated[
        list[
            Annotated[
                Annotated[JsonImage, Tag("image")]
                | Annotated[
                    Annotated[dict[str, JsonImage], Field(min_length=1, max_length=1)], Tag("named")
                ],
                Discriminator(_kind_of_instance),
            ]
        ],
        Field(
            min_length=1,
            description='Encoded images in base64: `{"b64": …}`, or that under the name of an '
            'input, like `{"image_bytes": {"b64": …}}`.',
        ),
    ]


class InstancePrediction(DeferredModel):
    """The outputs of one instance, as of TensorFlow's ResNet, and the label in words."""

    classes: Annotated[int, Field(description="Index of the most probable class.")]
    label: Annotated[str, Field(description="Its label.")]
    probabilities: Annotated[
        list[float], Field(description="One for each class, in the order of `class_names`.")
    ]


class InstancesAnswer(DeferredModel):
    """One prediction for each instance, in order."""

    predictions: list[InstancePrediction]


class TensorFlowServingApi:
    """The dialect of `/v1/models/{model}:predict`, with and without a version or a label."""

    methods: Sequence[str] = ("POST",)
    reply_to = staticmethod(error_reply)

    def __init__(self, max_images: int) -> None:
        self._max_images = max_images

    @staticmethod
    @lru_cache(maxsize=64)
    def match(path: str) -> Mapping[str, str] | None:
        """Return the path parameters, or None if the path is not a prediction route."""
        match = _ROUTE.fullmatch(path)
        return match and {name: value for name, value in match.groupdict().items() if value}

    def target(
        self,
        path_params: Mapping[str, str],
        query_string: bytes,  # noqa: ARG002  the protocol has no query
    ) -> VersionTarget:
        """Return the model and version of a request. Raises BadRequestError."""
        target, label = path_target(path_params), path_params.get("label")
        if label is not None and not is_alias_name(label):
            raise BadRequestError(
                f"label: {shorten(label, 40)!r} is not the name of an alias",
                code="invalid_parameter",
            )
        return VersionTarget(target.model, target.version, label)

    def start(
        self,
        loaded: LoadedVersion,
        headers: Mapping[str, str],  # noqa: ARG002  every body is JSON, whatever its media type
        query_string: bytes,  # noqa: ARG002  as in `target`
        record: RequestRecord,  # noqa: ARG002  responses have no times
    ) -> "InstancesCall":
        return InstancesCall(loaded, self._max_images)


class InstancesCall:
    """One request."""

    __slots__ = ("_loaded", "_max_images")
    priority: Priority = INTERACTIVE

    def __init__(self, loaded: LoadedVersion, max_images: int) -> None:
        self._loaded, self._max_images = loaded, max_images

    async def read(self, body: bytes, _: Callable[[int], None]) -> PredictRequest:
        images = (
            read_instances(body, self._max_images)
            if len(body) <= INLINE_BYTES
            else await asyncio.to_thread(read_instances, body, self._max_images)
        )
        return PredictRequest(images)

    async def write(
        self,
        request: PredictRequest,  # noqa: ARG002  the answer depends on nothing else
        outcomes: Sequence[ImageOutcome],
    ) -> Reply:
        names = self._loaded.version.manifest.class_names
        arguments = (read_results(outcomes), names)
        large = len(outcomes) * len(names) > MAX_NUMBERS_IN_EVENT_LOOP
        body = await asyncio.to_thread(_encode, *arguments) if large else _encode(*arguments)
        return Reply(HTTPStatus.OK, body)


def read_instances(body: bytes, max_images: int) -> list[EncodedImage]:
    """Decode the images of a body. Invalid base64 is replaced by its error.

    Raises:
        BadRequestError: The body is not the expected JSON.
        TooLargeError: There are more than `max_images` images.
    """
    document = load_json(body, max_images, InstancesBody, _EXPECTED)
    instances = document.content.instances
    check_image_count(len(instances), max_images)
    images = [
        instance if isinstance(instance, JsonImage) else next(iter(instance.values()))
        for instance in instances
    ]
    return [decode_image(image.b64, document.long_strings) for image in images]


def _encode(rows: Sequence[Classification], class_names: Sequence[str]) -> bytes:
    predictions: list[dict[str, Any]] = [
        {
            "classes": int(row.indices[0]),
            "label": class_names[row.indices[0]],
            "probabilities": row.probabilities,
        }
        for row in rows
    ]
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)
