"""The live view: its stream of counters, and what a person sees of it."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from browser_page import violations, visiting
from colour_model import plain
from server_process import PATIENCE_SECONDS, running

from model_store.store import ModelStore
from service.key_changes import add_key
from service.page.live import MAX_STREAMS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


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
        client.post("/v1/predict", content=b"")
        errors = read_event(client)["last_errors"]
        assert isinstance(errors, dict)
        assert sorted(errors, key=errors.__getitem__) == ["not_an_image", "empty_body"]
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


def test_number_of_streams_is_limited(client: httpx.Client) -> None:
    """The next one gets 429, until one of them ends."""
    with ExitStack() as streams:
        unlimited = httpx.Client(
            base_url=client.base_url,
            timeout=PATIENCE_SECONDS,
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )
        streams.enter_context(unlimited)
        opened = [
            streams.enter_context(unlimited.stream("GET", "/page/live")) for _ in range(MAX_STREAMS)
        ]
        assert {response.status_code for response in opened} == {200}
        rejected = client.get("/page/live")
        assert (rejected.status_code, rejected.json()["code"]) == (429, "overloaded")
        assert int(rejected.headers["retry-after"]) >= 1
    while True:  # the server notices each end on its own
        with client.stream("GET", "/page/live") as response:
            if response.status_code == 200:
                break
        assert response.status_code == 429


def test_last_errors_are_listed_by_code_with_the_newest_first(
    browser: "Browser", colour_store: ModelStore
) -> None:
    with (
        running("--store", colour_store.root, "--no-builtin") as server,
        server.announced().client() as client,
        visiting(browser, server.announced().address) as page,
    ):
        page.click("a[data-view=live]")
        page.get_by_text("None since the service started.").wait_for()
        for content in (b"no image", b"", b"no image", b"no image"):
            client.post("/v1/predict", content=content)
        rows = page.get_by_role("region", name="Last errors").get_by_role("row")
        rows.filter(has_text="not_an_image").get_by_text("3", exact=True).wait_for()
        codes = [row.get_attribute("data-code") for row in rows.all()[1:]]
        assert codes == ["not_an_image", "empty_body"]
        client.post("/v1/predict", content=b"")
        rows.nth(1).get_by_text("empty_body").wait_for()


def test_plots_move(page: "Page") -> None:
    page.click("a[data-view=live]")
    value = page.locator(".plot .large").first
    value.get_by_text("images/s").wait_for()
    assert page.locator(".plot").count() == 6
    assert page.locator(".plot .large").nth(1).inner_text() == "\N{EN DASH}"
    assert violations(page) == []


def test_key_with_the_scope_metrics_is_asked_for(
    browser: "Browser", colour_store: ModelStore, tmp_path: Path
) -> None:
    """The key is required once one has the scope. The plots move after it is entered."""
    keys = tmp_path / "keys.json"
    secret = add_key(keys, "page", ["metrics"])
    with (
        running("--store", colour_store.root, "--no-builtin", "--keys", keys) as server,
        visiting(browser, server.announced().address) as page,
    ):
        page.click("a[data-view=live]")
        page.fill("#api-key", secret)
        page.keyboard.press("Enter")
        page.locator(".plot .large").first.get_by_text("images/s").wait_for()
