"""The health routes."""

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from service.http.error_responses import describe_errors
from service.http.schemas import Health
from service.versions.registry import Registry


def build_health_router(registry: Registry) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get(
        "/health/live",
        summary="Is the process up?",
        response_model=Health,
        response_model_exclude_none=True,
        responses={
            **describe_errors(),
            503: {"model": Health, "description": "Restart it; `reason` says why"},
        },
    )
    async def live() -> Response:
        """200 while the process works; 503 if a thread of it has ended unexpectedly.

        Models that do not serve, or a store that cannot be read, do not matter: a restart would
        not help.
        """
        reason = describe_stopped(registry)
        health = Health(status="not live" if reason else "live", reason=reason)
        return JSONResponse(
            health.model_dump(exclude_none=True), status_code=503 if reason else 200
        )

    @router.get(
        "/health/ready",
        summary="May traffic be sent here?",
        response_model=Health,
        response_model_exclude_none=True,
        responses={
            **describe_errors(),
            503: {"model": Health, "description": "Not ready; `reason` says why"},
        },
    )
    async def ready() -> Response:
        """200 if every required model serves, at least one model does, and the process is live.

        Otherwise 503. `reason` names the models that do not serve.
        """
        health = describe_health(registry)
        return JSONResponse(
            health.model_dump(exclude_none=True), status_code=200 if registry.service_ready else 503
        )

    return router


def describe_stopped(registry: Registry) -> str | None:
    """Which parts of the process have ended, so that only a restart helps."""
    stopped = registry.stopped_parts
    return f"{', '.join(stopped)} has stopped; restart the service" if stopped else None


def describe_health(registry: Registry) -> Health:
    """Whether this replica is ready, and which models or workers do not serve."""
    if registry.stopping:
        return Health(status="not ready", reason="the service is shutting down")
    reasons = [stopped] if (stopped := describe_stopped(registry)) else []
    if registry.error:
        reasons.append("the model store cannot be read")
    if registry.loaded:
        idle = [model for model in registry.models.values() if model.default_version is None]
        loading = sorted(model.name for model in idle if model.state == "loading")
        failed = sorted(model.name for model in idle if model.state not in {"loading", "unloaded"})
        if failed:
            reasons.append(f"no proven version of {', '.join(failed)}")
        if loading:
            reasons.append(f"still loading {', '.join(loading)}")
        missing = registry.required.missing(registry.models).items()
        reasons += [
            f"{setting} names {name}, which is not in the store" for name, setting in missing
        ]
    elif not registry.error:
        reasons.append("the models are being loaded")
    if registry.ready and (others := registry.why_others_are_not_ready()):
        return Health(status="not ready", reason="; ".join([*reasons, others]))
    if registry.ready:
        return Health(status="ready", reason="; ".join(reasons) or None)
    return Health(status="not ready", reason="; ".join(reasons) or "the store has no model")
