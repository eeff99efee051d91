"""The live view: its stream of counters, and what a person sees of it."""

import json
from typing import TYPE_CHECKING

import httpx
from browser_page import violations
from colour_model import plain
from server_process import running

from model_store.store import ModelStore

if TYPE_CHECKING:
    from playwright.sync_api import Page


def read_event(client: httpx.Client) -> dict[str, object]:
    with client.stream("GET", "/page/live") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        line = next(response.iter_lines())
        return dict(json.loads(line.removeprefix("data: ")))


def test_stream_counts_requests_and_batches(colour_store: ModelStore) -> None:
    """It ends with the server, which does not wait for it."""
    with running("--store", colour_store.root, "--no-builtin") as server:
        client = server.announced().client()
        before = read_event(client)
        assert (before["outcomes"], before["images"]) == ({}, 0)
        client.post("/v1/predict", content=plain("red"))
        client.post("/v1/predict", content=b"no image")
        after = read_event(client)
        assert after["outcomes"] == {"ok": 1, "not_an_image": 1}
        assert (after["images"], after["batches"], after["waiting"]) == (1, 1, 0)
        latency = after["latency"]
        assert isinstance(latency, dict)
        assert sum(latency["counts"]) == 2
        assert len(latency["counts"]) == len(latency["bounds"]) + 1
        with client.stream("GET", "/page/live") as response:
            next(response.iter_lines())
            server.end()
        assert "timeout graceful shutdown exceeded" not in server.stderr.text
        assert "Traceback" not in server.stderr.text
        client.close()


def test_plots_move(page: "Page") -> None:
    page.click("a[data-view=live]")
    value = page.locator(".plot .large").first
    value.get_by_text("images/s").wait_for()
    assert page.locator(".plot").count() == 6
    assert violations(page) == []
