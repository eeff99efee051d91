"""A real browser, and the page in it."""

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browser_page import visiting
from server_process import ServerProcess, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Of the module and no longer, because Playwright's event loop excludes that of other tests."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright: pip install '.[browser-test]'"
    )
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with api.sync_playwright() as playwright:
        try:
            # The sandbox needs rights that containers do not give; the pages are our own.
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        except api.Error as error:
            if "Executable doesn't exist" not in error.message:
                raise
            pytest.skip("no browser: type `make browser`, or install Chromium (apt-get, brew)")
        yield browser
        browser.close()


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
