"""The training report, opened from the view of models, in a real browser."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_page import visiting
from colour_model import MODEL
from report_model import publish_with_report
from server_process import running

from model_store.store import ModelStore
from service.key_changes import add_key

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.mark.parametrize("with_key", [False, True])
def test_report_opens_in_a_tab_of_its_own_without_rights(
    browser: "Browser", store: ModelStore, tmp_path: Path, *, with_key: bool
) -> None:
    """Its style applies. Its script does not run, and it cannot load from other hosts."""
    publish_with_report(store)
    secret = add_key(tmp_path / "keys.json", "page", ["predict"])
    keys = ("--keys", tmp_path / "keys.json") if with_key else ()
    with (
        running("--store", store.root, "--no-builtin", *keys) as server,
        visiting(browser, server.announced().address) as page,
    ):
        if with_key:
            page.get_by_label("Key", exact=True).fill(secret)
            page.keyboard.press("Enter")
        page.click("a[data-view=models]")
        page.get_by_label("Version 1: details").click()
        failures: dict[str, str | None] = {}
        page.context.on("requestfailed", lambda each: failures.update({each.url: each.failure}))
        with page.context.expect_page() as opened:
            page.get_by_label(f"Training report of {MODEL} version 1, in a new tab").click()
        report = opened.value
        report.get_by_role("heading", name="Curves").wait_for()
        assert report.title() == "Report"
        colour = report.locator("h1").evaluate("heading => getComputedStyle(heading).color")
        assert colour == "rgb(1, 2, 3)"
        assert report.evaluate("origin") == "null", "a sandbox"
        assert secret not in report.url
        assert failures["http://other.invalid/x.png"] == "csp"
