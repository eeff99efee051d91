"""A real browser, and pages in it that fail their test on any error or request to another host."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from server_process import PATIENCE_SECONDS, ServerProcess, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Chromium reports each 4xx and 5xx on the console, even if the script handles it.
HANDLED = "Failed to load resource"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Of the module and no longer, because Playwright's event loop excludes that of other tests."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright: pip install '.[browser-test]'"
    )
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        # The sandbox needs rights that containers do not give; the pages are our own.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


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


@pytest.fixture(scope="module")
def builtin_server() -> Iterator[ServerProcess]:
    """A server with the models that ship with the project."""
    with running("--store", "no-store-of-a-test") as server:
        yield server.announced()


@pytest.fixture
def page(browser: "Browser", builtin_server: ServerProcess) -> Iterator["Page"]:
    with visiting(browser, builtin_server.address) as page:
        page.wait_for_selector(".examples img[src]")
        yield page
