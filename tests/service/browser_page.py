"""A page in a real browser. It fails its test on an error or a request to another host."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from server_process import PATIENCE_SECONDS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Chromium reports each 4xx and 5xx on the console, even if the script handles it.
HANDLED = "Failed to load resource"
AXE = Path(__file__).parent / "page/axe-core/axe.min.js"


@dataclass
class Visit:
    """A page of a browser, and what it did."""

    page: "Page"
    hosts: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


@contextmanager
def visiting(browser: "Browser", address: str, **context: Any) -> Iterator["Page"]:
    """Open the page of a server. Its console and its requests are checked at the end."""
    with browser.new_context(**context) as opened:
        page = opened.new_page()
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        visit = Visit(page)
        page.on("request", lambda request: visit.hosts.add(httpx.URL(request.url).netloc.decode()))
        page.on("pageerror", lambda error: visit.problems.append(str(error)))
        page.on(
            "console",
            lambda message: (
                visit.problems.append(message.text)
                if message.type in {"error", "warning"} and HANDLED not in message.text
                else None
            ),
        )
        page.goto(f"{address}/")
        page.wait_for_selector("#view-try:not([hidden])")
        yield page
        assert visit.problems == []
        assert visit.hosts <= {httpx.URL(address).netloc.decode(), ""}, "blob: has no host"


def png(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": data}


def violations(page: "Page") -> list[str]:
    """What axe-core finds, with the elements."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in found]
