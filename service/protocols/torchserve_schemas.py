"""Schemas of TorchServe's routes, with TorchServe's field names."""

from typing import Annotated, Literal

from fastapi import Path
from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

from model_store.names import VERSION_PATTERN
from model_store.validation import DeferredModel

TorchServeVersion = Annotated[
    str,
    Path(
        description="Number of a version, also like `1.0`.",
        json_schema_extra={"pattern": rf"^{VERSION_PATTERN}(\.0)?$"},
    ),
]
VersionOrAll = Annotated[
    str,
    Path(
        description="Number of a version, also like `1.0`, or `all`.",
        json_schema_extra={"pattern": rf"^(all|{VERSION_PATTERN}(\.0)?)$"},
    ),
]


class TorchServeError(DeferredModel):
    """Any failure of these routes."""

    code: int
    type: str
    message: str


class _CamelCase(DeferredModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class PingAnswer(DeferredModel):
    status: Literal["Healthy", "Unhealthy"]


class ListedModel(_CamelCase):
    model_name: str
    model_url: str


class ModelPage(_CamelCase):
    next_page_token: str | None = None
    models: list[ListedModel]


class ModelWorker(DeferredModel):
    """An instance of a model. All are in one process."""

    id: str
    status: Literal["READY"] = "READY"
    pid: int
    gpu: bool


class DescribedModel(_CamelCase):
    model_name: str
    model_version: str
    model_url: str
    runtime: str = "onnxruntime"
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    loaded_at_startup: bool = True
    workers: list[ModelWorker]


class SetDefaultAnswer(DeferredModel):
    status: str
