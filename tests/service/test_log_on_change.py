"""LogOnChange, and the problems of models that are logged once."""

import logging
from pathlib import Path

import httpx
import pytest
from asgi_application import Application, started
from colour_model import MODEL, publish

from model_store.store import ModelStore
from service.log_on_change import LogOnChange
from service.versions.reconciler import reconcile


def test_problem_is_logged_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    """A repeated problem is logged once, and again after it was cleared or changed, per subject."""
    problems = LogOnChange(logging.getLogger("test"))
    problems.report("a", "x")
    problems.report("a", "x")
    problems.report("b", "x")
    problems.report("a", "y")
    assert [problems.clear("a"), problems.clear("a")] == [True, False]
    problems.report("a", "y")
    problems.report("b", "x")
    assert caplog.messages == ["x", "x", "y", "y"]


def damage(store: ModelStore, alias: str) -> Path:
    """Write a damaged newest event."""
    event = store.root / MODEL / "aliases" / alias / "00000002.json"
    event.write_text("{")
    return event


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert not any(record.exc_info for record in caplog.records), (
        "a traceback says no more than the line"
    )
    return [record.message for record in caplog.records if record.levelno > logging.INFO]


async def ask(application: Application) -> httpx.Response:
    for _ in range(3):
        response = await application.client.get(f"/v1/models/{MODEL}")
        assert response.status_code == 200
    return response


@pytest.mark.anyio
@pytest.mark.parametrize("alias", ["canary", "production"])
async def test_damaged_alias_is_logged_once_and_shown(
    store: ModelStore, alias: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged alias is logged once and shown, whether or not the policy follows it."""
    publish(store)
    for name in ("canary", "production"):
        store.promote(MODEL, 1, name)
    async with started(store.root, store_poll_seconds=0) as application:
        event = damage(store, alias)
        reconcile(application.registry)
        reason = f"{MODEL}: event 2 of alias {alias} is damaged: ValidationError"
        detail = (await ask(application)).json()
        assert (detail["state"], detail["version"], detail["reason"]) == ("ready", 1, reason)
        assert detail["aliases"] == {"canary": 1, "production": 1} | {alias: None}
        (message,) = errors(caplog)
        assert reason in message
        event.unlink()
        reconcile(application.registry)
        detail = (await ask(application)).json()
        assert (detail["reason"], detail["aliases"]) == (None, {"canary": 1, "production": 1})


@pytest.mark.anyio
async def test_unreadable_store_is_logged_once_and_shown(
    store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """An unreadable store is logged once, by the route or by the reconciliation."""
    publish(store)
    async with started(store.root, store_poll_seconds=0) as application:
        hidden = store.root.rename(store.root.with_name("hidden"))
        assert (await ask(application)).json()["reason"]
        assert len(errors(caplog)) == 1
        hidden.rename(store.root)
        assert (await ask(application)).json()["reason"] is None
        hidden = store.root.rename(hidden)
        reconcile(application.registry)
        await ask(application)
        assert len(errors(caplog)) == 2
        hidden.rename(store.root)
