"""Accessibility of the page: screen reader, keyboard, zoom, themes and reduced motion."""

from typing import TYPE_CHECKING

import pytest
from browser_page import png, violations, visiting
from colour_model import plain
from server_process import ServerProcess

from model_store.store import BUILTIN_ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FILES = "input[type=file]"
CAT = BUILTIN_ROOT / "cifar10/1/golden/cat.jpg"
VIEWS = {
    "try": ".nearest li",
    "models": "article[data-model=cifar10] [data-version]",
    "live": ".plot .large",
    "code": ".sample",
}
ZOOMED = {"viewport": {"width": 640, "height": 360}, "device_scale_factor": 2}
"""The viewport of a browser window of 1280x720 pixels at 200 % zoom."""


def open_view(page: "Page", name: str) -> None:
    page.click(f"a[data-view={name}]")
    page.locator(VIEWS[name]).first.wait_for()


def accessible(page: "Page") -> set[tuple[str, str]]:
    """Role and name of everything that a screen reader is told of."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return {
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and "role" in node
    }


def test_screen_reader_is_told_names_and_roles(page: "Page") -> None:
    """Covers the views, the choices, the answer, its labels and similar examples."""
    page.set_input_files(FILES, CAT)
    page.wait_for_selector(".nearest li")
    found = accessible(page)
    assert {
        ("link", "Skip to the content"),
        ("navigation", "Views"),
        ("link", "Try"),
        ("combobox", "Model"),
        ("combobox", "Version"),
        ("image", "Your picture: cat.jpg"),
        ("button", "Choose pictures"),
        ("slider", "Where it looked"),
        ("region", "Answer"),
        ("list", "Labels, most probable first"),
        ("button", "cat"),
        ("region", "Looks like"),
        ("button", "Example cat.jpg: cat, distance 0.00"),
        ("group", "Also show a set of labels that contains the right one with a probability of"),
        ("radio", "off"),
        ("contentinfo", ""),
    } <= found
    unnamed = {role for role, name in found if not name}
    assert not unnamed & {"button", "link", "combobox", "radio", "slider", "textbox", "image"}


def test_screen_reader_hears_results_and_errors(page: "Page") -> None:
    """Each is announced once, as one sentence, even if the same answer comes twice."""
    announcer = page.get_by_role("status").last
    assert announcer.get_attribute("aria-live") == "polite"
    page.evaluate(
        """() => {
          window.heard = [];
          const announcer = document.getElementById("announcer");
          new MutationObserver(() => window.heard.push(announcer.textContent.trim()))
            .observe(announcer, { childList: true, characterData: true, subtree: true });
        }"""
    )
    for _ in range(2):
        page.set_input_files(FILES, CAT)
        page.wait_for_selector(".answer:not([aria-busy]) .verdict")
    answer = "cat, 99.9 %. The model is almost certain."
    heard = page.evaluate("heard.filter(text => !text.includes('thinking'))")
    assert heard == [answer, answer]
    assert page.locator("[aria-live] [aria-live]").count() == 0
    assert page.locator(".answer[aria-live]").count() == 0, "it would be read twice"
    page.set_input_files(FILES, png("x.png", b"no image"))
    page.get_by_role("alert").wait_for()


def test_views_name_themselves_in_the_title(page: "Page") -> None:
    for name, title in (("models", "Models"), ("live", "Live"), ("code", "Code"), ("try", "Try")):
        page.click(f"a[data-view={name}]")
        page.locator("nav [aria-current=page]", has_text=title).wait_for()
        assert page.title() == f"{title} \N{EN DASH} Resident"


def press_until(page: "Page", key: str, wanted: str, limit: int = 60) -> None:
    """Press a key until the focus is on a match of this selector, and can be seen there."""
    for _ in range(limit):
        page.keyboard.press(key)
        if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
            style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert style == "solid", f"{wanted} does not show the focus"
            return
    raise AssertionError(f"{key} does not reach {wanted}")


def test_every_step_works_by_keyboard(page: "Page") -> None:
    """An example, its heat map, the map of another label, an example like it, and the views."""
    press_until(page, "Tab", ".examples button")
    page.keyboard.press("Enter")
    page.wait_for_selector(".nearest li")
    press_until(page, "Shift+Tab", "#opacity")
    before = page.locator("#opacity").input_value()
    page.keyboard.press("ArrowLeft")
    assert int(page.locator("#opacity").input_value()) < int(before)
    press_until(page, "Tab", ".bars li:nth-child(2) button")
    page.keyboard.press("Enter")
    label = page.locator(".bars li").nth(1).get_attribute("data-label")
    assert page.locator("canvas.heat").get_attribute("data-label") == label
    press_until(page, "Tab", ".nearest button")
    press_until(page, "Shift+Tab", "a[data-view=models]")
    page.keyboard.press("Enter")
    page.locator(VIEWS["models"]).first.wait_for()
    press_until(page, "Tab", ".disclosure")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.ariaExpanded") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["zoomed", "phone"])
def test_every_view_fits_and_axe_finds_nothing(
    browser: "Browser", builtin_server: ServerProcess, scheme: str, size: str
) -> None:
    """At 200 % zoom and on a phone: no scrolling sideways. In both themes: enough contrast."""
    context = ZOOMED if size == "zoomed" else {"viewport": {"width": 360, "height": 740}}
    with visiting(browser, builtin_server.address, color_scheme=scheme, **context) as page:
        page.set_input_files(FILES, CAT)
        grounds = set()
        for name in VIEWS:
            open_view(page, name)
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= context["viewport"]["width"], name
            assert violations(page) == [], name
        (ground,) = grounds
        assert (ground == "rgb(14, 20, 27)") == (scheme == "dark")


def test_nothing_moves_if_the_person_prefers_so(
    browser: "Browser", builtin_server: ServerProcess
) -> None:
    """Transitions and smooth scrolling are switched off."""
    durations = """[...document.querySelectorAll("*")].flatMap(element => {
      const style = getComputedStyle(element);
      return `${style.transitionDuration}, ${style.animationDuration}`.split(", ");
    }).filter(duration => parseFloat(duration) > 0)"""
    for motion, moves in (("no-preference", True), ("reduce", False)):
        with visiting(browser, builtin_server.address, reduced_motion=motion) as page:
            page.set_input_files(FILES, png("red.png", plain("red")))
            page.wait_for_selector(".bars li")
            assert bool(page.evaluate(durations)) == moves
            if not moves:
                assert page.evaluate("document.getAnimations().length") == 0
