"""The routes that show the example images of a version: the images of its golden proof."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from fastapi import Path as PathParam
from pydantic import BaseModel, Field
from starlette.responses import Response

from model_store.errors import ModelStoreError
from model_store.image_header import sniff
from model_store.version import MAX_GOLDEN_IMAGE_BYTES
from service.errors import NotFoundError, NotReadyError
from service.http.api_keys import ApiKeys
from service.http.error_responses import (
    KEY_ERRORS,
    SERVING_ERRORS,
    describe_errors,
)
from service.http.path_params import ModelName, VersionNumber
from service.versions.registry import Registry

_ERRORS: Final = (*KEY_ERRORS, *SERVING_ERRORS)
_IMAGE: Final[dict[str, Any]] = {
    "description": "The encoded image",
    "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'",
    "Cache-Control": "private, max-age=3600",
}


class Example(BaseModel):
    """One example image."""

    index: Annotated[int, Field(description="Its place in the path of the image, from 0.")]
    name: Annotated[str, Field(description="Name of its file.")]
    purpose: Annotated[str, Field(description="What it shows, for people.")]
    label: Annotated[str, Field(description="The label that the version gives it.")]


class ExampleList(BaseModel):
    """The images of the golden proof of a version, in the order of the manifest."""

    model: str
    version: int
    examples: list[Example]


def build_example_router(registry: Registry, keys: ApiKeys) -> APIRouter:
    """Build the routes of example images.

    They need a key with the scope `predict` where predictions do: the images may come from the
    validation split.
    """
    router = APIRouter(
        prefix="/v1/models/{model}/versions/{version}/examples",
        tags=["models"],
        dependencies=[Depends(keys.require("predict"))],
    )

    @router.get(
        "", summary="List the example images of a version", responses=describe_errors(*_ERRORS)
    )
    async def list_examples(model: ModelName, version: VersionNumber) -> ExampleList:
        """The images of the version's golden proof, which must serve."""
        manifest = registry.find(model, version).version.manifest
        return ExampleList(
            model=model,
            version=version,
            examples=[
                Example(
                    index=index,
                    name=each.image.rsplit("/", 1)[-1],
                    purpose=each.purpose,
                    label=manifest.class_names[each.logits.index(max(each.logits))],
                )
                for index, each in enumerate(manifest.golden)
            ],
        )

    @router.get(
        "/{index}",
        summary="Show an example image",
        response_class=Response,
        responses={200: _IMAGE, **describe_errors(*_ERRORS, "example_not_found")},
    )
    def show_example(
        model: ModelName,
        version: VersionNumber,
        index: Annotated[
            int,
            PathParam(
                ge=0, description="Index of the image, from 0.", json_schema_extra={"example": 0}
            ),
        ],
    ) -> Response:
        """The encoded image, as the version holds it."""
        with registry.lease(model, version) as loaded:
            golden = loaded.version.manifest.golden
            if index >= len(golden):
                raise NotFoundError(
                    f"{loaded.version} has {len(golden)} example images, from 0; got {index}",
                    code="example_not_found",
                )
            try:
                data = loaded.version.read_file(golden[index].image, MAX_GOLDEN_IMAGE_BYTES)
            except ModelStoreError:
                raise NotReadyError(
                    f"example image {index} of {loaded.version} cannot be read at the moment"
                ) from None
        kind = sniff(data)
        media_type = f"image/{kind.lower()}" if kind else "application/octet-stream"
        return Response(data, media_type=media_type, headers=_HEADERS)

    return router
