"""The choice of a model and version at the top of the page, in a real browser."""

from typing import TYPE_CHECKING

from browser_page import png, visiting
from colour_model import MODEL, plain, publish
from operating import operating
from server_process import running

from model_store.store import ModelStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FILES = "input[type=file]"


def test_each_version_is_asked_for_what_it_has(browser: "Browser", store: ModelStore) -> None:
    """The newest version has no embedding, and the one before has: both answer."""
    publish(store, embedding=True)
    publish(store)
    flags = ("--store", store.root, "--no-builtin", "--version-policy", "all")
    with running(*flags) as server, visiting(browser, server.announced().address) as page:
        page.set_input_files(FILES, png("red.png", plain("red")))
        page.wait_for_selector(".verdict")
        assert page.locator("#version").input_value() == "2"
        assert page.locator(".nearest").count() == 0
        page.select_option("#version", "1")
        page.wait_for_selector(".nearest li")
        page.locator(".timings summary", has_text="version 1").wait_for()
        page.select_option("#version", "2")
        page.locator(".timings summary", has_text="version 2").wait_for()
        page.locator(".nearest").wait_for(state="detached")


def test_choice_follows_what_is_unloaded_and_the_focus_stays(
    browser: "Browser", store: ModelStore
) -> None:
    publish(store)
    publish(store)
    with (
        operating(store, "--version-policy", "all") as operator,
        visiting(browser, operator.server.address) as page,
    ):
        page.select_option("#version", "1")
        page.locator("#version option:checked", has_text="1").wait_for(state="attached")
        page.click("a[data-view=models]")
        page.get_by_label(f"Unload version 1 of {MODEL}").click()
        page.get_by_text("Yes", exact=True).click()
        page.get_by_label("Key", exact=True).fill(operator.secret)
        page.keyboard.press("Enter")
        page.get_by_label(f"Load version 1 of {MODEL}", exact=True).wait_for()
        page.locator("[data-version='1'] .disclosure:focus").wait_for()
        page.locator("#version option", has_text="1").wait_for(state="detached")
        assert page.locator("#version").input_value() == "2"


def test_choice_that_fails_says_so_and_can_be_repeated(
    browser: "Browser", colour_store: ModelStore
) -> None:
    with (
        running("--store", colour_store.root, "--no-builtin") as server,
        visiting(browser, server.announced().address) as page,
    ):
        page.wait_for_selector(".examples img[src]")
        server.end()
        page.dispatch_event("#version", "change")
        page.get_by_role("alert").get_by_role("button", name="Try again").wait_for()
