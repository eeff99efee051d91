"""The views of models and of code, in a real browser."""

from typing import TYPE_CHECKING

from browser_page import png, violations, visiting
from colour_model import MODEL, plain, publish
from operating import operating, publish_other
from server_process import ServerProcess

from model_store.store import ModelStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

POLICY = ("--version-policy", "all")


def enter_key(page: "Page", key: str) -> None:
    page.get_by_label("Key", exact=True).fill(key)
    page.keyboard.press("Enter")


def test_version_is_promoted_with_a_key_and_not_without(
    browser: "Browser", store: ModelStore
) -> None:
    """The page asks first, then for a key; a wrong key changes nothing."""
    publish(store)
    publish_other(store)
    with operating(store, *POLICY) as operator, visiting(browser, operator.server.address) as page:
        page.click("a[data-view=models]")
        page.get_by_label(f"Promote version 1 of {MODEL}").click()
        page.get_by_text("Yes", exact=True).click()
        enter_key(page, "wrong")
        page.get_by_role("alert").wait_for()
        assert "production" not in operator.client.get(f"/v1/models/{MODEL}").json()["aliases"]
        enter_key(page, operator.secret)
        page.locator("tr[data-version='1'] .chip", has_text="production").wait_for()
        aliases = operator.client.get(f"/v1/models/{MODEL}").json()["aliases"]
        assert aliases["production"] == 1
        page.get_by_label(f"Promote version 2 of {MODEL}").click()
        page.get_by_text("Yes", exact=True).click()
        page.locator("tr[data-version='2'] .chip", has_text="production").wait_for()
        page.get_by_text("Roll back the newest promotion").click()
        page.get_by_text("Yes", exact=True).click()
        page.locator("tr[data-version='1'] .chip", has_text="production").wait_for()


def test_version_is_unloaded_and_loaded(browser: "Browser", store: ModelStore) -> None:
    publish(store)
    publish_other(store)
    with operating(store, *POLICY) as operator, visiting(browser, operator.server.address) as page:
        page.click("a[data-view=models]")
        page.get_by_label(f"Unload version 1 of {MODEL}").click()
        page.get_by_text("Yes", exact=True).click()
        enter_key(page, operator.secret)
        page.get_by_label(f"Load version 1 of {MODEL}", exact=True).click()
        page.get_by_text("Yes", exact=True).click()
        page.get_by_label(f"Unload version 1 of {MODEL}").wait_for()


def test_two_versions_answer_side_by_side(browser: "Browser", store: ModelStore) -> None:
    """The second version classifies red as white. Nothing that axe-core finds is wrong."""
    publish(store)
    publish_other(store)
    with operating(store, *POLICY) as operator, visiting(browser, operator.server.address) as page:
        page.click("a[data-view=models]")
        page.locator("#compare-second option").nth(1).wait_for(state="attached")
        page.set_input_files(".compare input[type=file]", png("red.png", plain("red")))
        page.locator(".pair .verdict").nth(1).wait_for()
        first = page.locator(".pair .bars").nth(0).locator("li").first
        second = page.locator(".pair .bars").nth(1).locator("li").first
        assert (first.get_attribute("data-label"), second.get_attribute("data-label")) == (
            "red",
            "white",
        )
        page.get_by_label("Version 1: details").click()
        page.get_by_text("Published").first.wait_for()
        assert violations(page) == []


def test_details_show_accuracy_gates_and_origin(page: "Page") -> None:
    page.click("a[data-view=models]")
    article = page.locator("article[data-model=cifar10]")
    article.get_by_text("90.5 % (").wait_for()
    article.get_by_label("Version 1: details").click()
    for text in ("Repeat it", "sha256:", "Gates"):
        article.get_by_text(text).first.wait_for()
    assert violations(page) == []


def test_code_names_this_host_and_model(page: "Page", builtin_server: ServerProcess) -> None:
    page.click("a[data-view=code]")
    page.select_option("#model", "digits-resnet20")
    curl = page.get_by_role("region", name="curl")
    url = f"{builtin_server.address}/v1/models/digits-resnet20/versions/1/predict"
    curl.get_by_text(url).wait_for()
    assert page.locator(".sample").count() == 4
    assert violations(page) == []


def test_built_in_models_cannot_be_promoted(page: "Page") -> None:
    """They have no aliases, so the page does not offer what the service would refuse."""
    page.click("a[data-view=models]")
    page.get_by_label("Unload version 1 of cifar10").wait_for()
    assert page.get_by_label("Promote version 1 of cifar10").count() == 0
    assert page.get_by_text("Roll back the newest promotion").count() == 0
