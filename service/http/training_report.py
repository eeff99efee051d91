"""The route of the report of a version: of its training, or of its evaluation."""

from typing import Final

from fastapi import APIRouter, Depends
from starlette.responses import HTMLResponse

from model_store.errors import ModelNotFoundError, ModelStoreError, VersionNotFoundError
from model_store.version import MAX_REPORT_BYTES
from service.errors import NotFoundError, NotReadyError
from service.http.api_keys import ApiKeys
from service.http.error_responses import KEY_ERRORS, SERVING_ERRORS, describe_errors
from service.http.path_params import ModelName, VersionNumber
from service.versions.registry import Registry

_HEADERS: Final = {
    # The publisher wrote this HTML, so it runs no scripts and has no origin.
    "Content-Security-Policy": "sandbox; default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "private, max-age=3600",
}


def build_report_router(registry: Registry, keys: ApiKeys) -> APIRouter:
    """Build the route of reports.

    It needs a key with the scope `predict` if predictions need one: reports show test images.
    """
    router = APIRouter(tags=["models"], dependencies=[Depends(keys.require("predict"))])

    @router.get(
        "/v1/models/{model}/versions/{version}/report",
        summary="Show the report of a version",
        response_class=HTMLResponse,
        responses=describe_errors(*KEY_ERRORS, *SERVING_ERRORS, "report_not_found"),
    )
    def show_report(model: ModelName, version: VersionNumber) -> HTMLResponse:
        """The report of the training, with curves, confusion matrix and worst mistakes.

        Imported and built-in versions have a report of their evaluation instead, without curves.
        The version need not serve.
        """
        return read_report(registry, model, version)

    return router


def read_report(registry: Registry, model: str, number: int) -> HTMLResponse:
    """Return a version's report, with headers that make browsers sandbox it. Reads the store.

    Raises:
        NotFoundError: The store has no such model or version, or it holds no report.
        NotReadyError: The version cannot be read.
    """
    if model not in registry.models:
        raise NotFoundError(f"there is no model {model!r}")
    try:
        with registry.store.open_manifest(model, number) as version:
            file = version.manifest.report_file
        if file is None:
            raise NotFoundError(
                f"version {number} of model {model} has no report; `python -m training run` and "
                "`import --verify` publish versions with one, and `add-report` adds it",
                code="report_not_found",
            )
        with registry.store.open(model, number, verify=False) as version:
            report = version.read_file(file, MAX_REPORT_BYTES)
        return HTMLResponse(report, headers=_HEADERS)
    except ModelNotFoundError:
        raise NotFoundError(f"there is no model {model!r}") from None
    except VersionNotFoundError:
        raise NotFoundError(
            f"model {model} has no version {number} in the store", code="version_not_found"
        ) from None
    except ModelStoreError:
        raise NotReadyError(
            f"the report of version {number} of model {model} cannot be read at the moment"
        ) from None
