"""The example images that look most like the picture, in a real browser."""

from typing import TYPE_CHECKING

from browser_page import png, violations, visiting
from colour_model import COLOURS, plain, publish
from server_process import running

from model_store.store import BUILTIN_ROOT, ModelStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FILES = "input[type=file]"
CAT = BUILTIN_ROOT / "cifar10/1/golden/cat.jpg"


def nearest(page: "Page") -> list[tuple[str, str]]:
    """Names and distances of the examples that are shown beside the answer."""
    page.wait_for_selector(".nearest li")
    return [
        (item.get_attribute("data-name") or "", item.inner_text().rsplit(" ", 1)[1])
        for item in page.locator(".nearest li").all()
    ]


def test_nearest_examples_are_shown_with_their_distance(
    browser: "Browser", store: ModelStore
) -> None:
    """They are ordered by cosine distance. The embedding of this model is the mean colour."""
    publish(store, golden=list(COLOURS), embedding=True)
    with (
        running("--store", store.root, "--no-builtin") as server,
        visiting(browser, server.announced().address) as page,
    ):
        page.set_input_files(FILES, png("picture.png", plain("red")))
        # yellow and magenta share one of two colours with red: 1 - 1 / sqrt(2)
        first, *others = nearest(page)
        assert first == ("red.png", "0.00")
        assert sorted(others) == [("magenta.png", "0.29"), ("yellow.png", "0.29")]
        page.get_by_role("button", name="Example magenta.png: magenta, distance 0.29").click()
        page.locator(".verdict", has_text="magenta").wait_for()
        page.locator(".nearest li[data-name='magenta.png']").first.wait_for()
        assert nearest(page)[0] == ("magenta.png", "0.00")
        assert violations(page) == []


def test_examples_are_embedded_once_per_version(page: "Page") -> None:
    """They are not embedded before a picture is classified."""
    embedded: list[str] = []
    page.on("request", lambda each: embedded.append(each.url) if "/embed" in each.url else None)
    for _ in range(2):
        page.set_input_files(FILES, CAT)
        page.wait_for_selector(".nearest li")
    assert nearest(page)[0] == ("cat.jpg", "0.00")
    with ModelStore().open("cifar10", 1) as version:
        examples = len(version.manifest.golden)
    assert len(embedded) == page.locator(".examples li").count() == examples


def test_model_without_embedding_shows_no_neighbours(
    browser: "Browser", colour_store: ModelStore
) -> None:
    with (
        running("--store", colour_store.root, "--no-builtin") as server,
        visiting(browser, server.announced().address) as page,
    ):
        page.set_input_files(FILES, png("red.png", plain("red")))
        page.wait_for_selector(".verdict")
        assert page.locator(".nearest").count() == 0
