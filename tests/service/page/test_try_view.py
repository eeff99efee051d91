"""What a person does on the page, in a real browser: drop, many pictures, errors."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_page import png, violations, visiting
from colour_model import SIZE, WEIGHTS, encode, plain, publish
from PIL import Image
from server_process import REPOSITORY, ServerProcess, running
from slow_model import slow_model_bytes

from model_store.store import BUILTIN_ROOT, ModelStore
from service.key_changes import add_key

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CAT = BUILTIN_ROOT / "cifar10/1/golden/cat.jpg"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
FILES = "input[type=file]"


def drop(page: "Page", files: list[tuple[str, bytes]]) -> None:
    """Drop files on the page, as a person drags them from another window."""
    transfer = page.evaluate_handle(
        """files => {
          const transfer = new DataTransfer();
          for (const [name, bytes] of files)
            transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/jpeg" }));
          return transfer;
        }""",
        [[name, list(data)] for name, data in files],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#main", event, {"dataTransfer": transfer})


def best_label(page: "Page") -> str | None:
    """The most probable label, whether or not the model abstains."""
    page.wait_for_selector(".verdict")
    return page.locator(".bars li").first.get_attribute("data-label")


def test_dropped_image_is_shown_with_its_label(page: "Page") -> None:
    """The label, the scores as text, the version and the timings."""
    drop(page, [("cat.jpg", CAT.read_bytes())])
    assert best_label(page) == "cat"
    assert page.locator(".verdict .label").inner_text().split("\n")[0] == "cat", "no abstention"
    assert page.locator(".bars li").count() == 5
    assert page.locator(".bars .value").first.inner_text() == "99.9 %"
    assert page.locator(".picture img").get_attribute("alt") == "Your picture: cat.jpg"
    assert "cifar10 version 1" in page.locator(".timings summary").inner_text()


def test_example_is_one_click(page: "Page") -> None:
    page.click(".examples button")
    assert best_label(page) == "cat"


def test_pasted_image_is_classified(page: "Page") -> None:
    page.evaluate(
        """bytes => {
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([new Uint8Array(bytes)], "x.jpg", {type: "image/jpeg"}));
          document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }""",
        list(CAT.read_bytes()),
    )
    assert best_label(page) == "cat"


def test_coverage_adds_the_prediction_set(page: "Page") -> None:
    page.set_input_files(FILES, CAT)
    page.locator(".coverage").get_by_text("95 %", exact=True).click()
    page.wait_for_selector(".set")
    assert page.locator(".set .chip").all_inner_texts() == ["cat"]


def test_heat_map_is_shown_and_moved(page: "Page") -> None:
    """It lies exactly over the picture, fades with the slider and follows the chosen label."""
    page.set_input_files(FILES, CAT)
    heat = page.locator("canvas.heat:visible")
    heat.wait_for()
    assert heat.bounding_box() == page.locator(".picture img").bounding_box()
    assert heat.get_attribute("data-label") == "cat"
    first = heat.evaluate("canvas => canvas.toDataURL()")
    other = page.locator(".bars button").nth(1)
    other.click()
    assert other.get_attribute("aria-pressed") == "true"
    assert heat.get_attribute("data-label") == other.inner_text()
    assert heat.evaluate("canvas => canvas.toDataURL()") != first
    page.get_by_label("Where it looked").fill("20")
    assert heat.evaluate("canvas => canvas.style.opacity") == "0.2"


def test_abstention_is_said_in_plain_words(page: "Page") -> None:
    page.set_input_files(FILES, CAT.with_name("grey-16-bit.png"))
    page.wait_for_selector(".verdict.abstained")


def test_batch_of_fifty_with_one_broken_file(page: "Page", tmp_path: Path) -> None:
    """Each file fails alone. The grid is sorted, filtered and downloaded."""
    cat = Image.open(CAT).resize((64, 48))
    files = [png(f"{number:02}.png", encode(cat)) for number in range(49)]
    page.set_input_files(FILES, [*files, png("=broken.png", b"no image")])
    page.locator(".batch").get_by_text("50 of 50 pictures done, 1 failed").wait_for()
    assert page.locator(".grid tbody tr").count() == 50
    assert page.locator(".grid tr.failed").count() == 1
    page.click("th[data-column=label] button")
    assert page.locator("th[data-column=label]").get_attribute("aria-sort") == "ascending"
    assert page.locator(".grid tbody tr").last.get_attribute("class") == "failed"
    page.click("th[data-column=label] button")
    assert page.locator(".grid tbody tr").first.get_attribute("class") == "failed"
    with page.expect_download() as download:
        page.get_by_text("Download CSV").click()
    path = tmp_path / "results.csv"
    download.value.save_as(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 50
    assert [row["error"] for row in rows if row["error"]] == ["not_an_image"]
    assert "'=broken.png" in {row["name"] for row in rows}, "no formula for a spreadsheet"
    assert {row["label"] for row in rows} == {"cat", ""}
    page.select_option("#filter-show", "failed")
    assert page.locator(".grid tbody tr:visible").count() == 1
    page.select_option("#filter-show", "answered")
    page.select_option("#filter-label", "cat")
    assert page.locator(".grid tbody tr:visible").count() == 49
    assert violations(page) == []


def test_error_says_what_to_do_and_offers_to_try_again(page: "Page") -> None:
    page.set_input_files(FILES, png("x.png", b"no image"))
    error = page.get_by_role("alert")
    error.get_by_text("Try again").wait_for()
    assert error.locator("p").count() == 4


@pytest.mark.slow
def test_slow_answer_and_then_an_error_of_the_server(browser: "Browser", store: ModelStore) -> None:
    """A run that hangs: the page says that it waits, the person may cancel, or the error comes."""
    publish(store, file=slow_model_bytes(SIZE, SIZE, WEIGHTS))
    flags = ("--store", store.root, "--no-builtin", "--instances", 1, "--run-timeout-seconds", 4)
    with (
        running(*flags) as server,
        visiting(browser, server.announced().address) as page,
    ):
        page.set_input_files(FILES, png("white.png", plain("white")))
        page.get_by_role("progressbar", name="Waiting").wait_for()
        page.get_by_text("Cancel").click()
        page.get_by_role("alert").wait_for()
        page.get_by_text("Try again").click()
        page.get_by_role("progressbar", name="Waiting").wait_for()
        page.get_by_text("the model failed on this batch").wait_for()
        page.set_input_files(FILES, png("red.png", plain("red")))
        assert best_label(page) == "red"


def test_service_that_is_gone_is_reported(browser: "Browser", colour_store: ModelStore) -> None:
    with (
        running("--store", colour_store.root, "--no-builtin") as server,
        visiting(browser, server.announced().address) as page,
    ):
        page.wait_for_selector(".examples img[src]")
        server.end()
        page.set_input_files(FILES, png("red.png", plain("red")))
        page.get_by_text("The service does not answer.").wait_for()


def test_key_is_asked_for_and_kept_in_memory(
    browser: "Browser", colour_store: ModelStore, tmp_path: Path
) -> None:
    """A wrong key is refused; the right one is used for the examples too, and never stored."""
    secret = add_key(tmp_path / "keys.json", "page", ["predict"])
    flags = ("--store", colour_store.root, "--no-builtin", "--keys", tmp_path / "keys.json")
    with (
        running(*flags) as server,
        visiting(browser, server.announced().address) as page,
    ):
        page.get_by_label("Key", exact=True).fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_role("alert").wait_for()
        page.get_by_label("Key", exact=True).fill(secret)
        page.keyboard.press("Enter")
        page.wait_for_selector(".examples img[src]")
        page.set_input_files(FILES, png("red.png", plain("red")))
        assert best_label(page) == "red"
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0
        assert page.context.cookies() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_shows_all_and_axe_finds_nothing(
    browser: "Browser", builtin_server: ServerProcess, scheme: str
) -> None:
    """Before and after an answer, without scrolling sideways; at 200 % zoom of a small window."""
    with visiting(browser, builtin_server.address, color_scheme=scheme, **PHONE) as page:
        page.wait_for_selector(".examples img[src]")
        assert violations(page) == []
        page.set_input_files(FILES, CAT)
        assert best_label(page) == "cat"
        assert page.locator(".verdict").bounding_box()["y"] < 844, "seen without scrolling"
        page.click(".timings summary")
        assert violations(page) == []
        for width in (390, 320):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_page_works_by_keyboard(page: "Page") -> None:
    """Tab reaches the link past the header, the choices, the buttons and the examples."""
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText.trim()"))
        if page.evaluate("document.activeElement.closest('.examples') !== null"):
            break
    assert reached[0] == "Skip to the content"
    assert "Choose pictures" in reached
    page.keyboard.press("Enter")
    assert best_label(page) == "cat"


def test_content_security_policy_is_enforced(
    browser: "Browser", builtin_server: ServerProcess
) -> None:
    """Scripts and markup from strings, inline styles and other hosts are refused."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{builtin_server.address}/")
        refused = page.evaluate(
            """() => new Promise(resolve => {
              const refused = new Set();
              const done = () => resolve([...refused].sort());
              addEventListener("securitypolicyviolation", event => {
                refused.add(event.effectiveDirective);
                if (refused.size === 4) done();
              });
              setTimeout(done, 20_000);
              import("http://other.invalid/x.js").catch(() => {});
              try { document.body.innerHTML = "<b>x</b>"; } catch {}
              const styled = document.createElement("p");
              styled.setAttribute("style", "color: red");
              const image = document.createElement("img");
              image.src = "http://other.invalid/x.png";
              document.body.append(styled, image);
            })"""
        )
    assert refused == ["img-src", "require-trusted-types-for", "script-src-elem", "style-src-attr"]


def test_scripts_are_small() -> None:
    """All of them together have at most 150 kB, uncompressed."""
    scripts = (REPOSITORY / "service/page/static").glob("*.js")
    assert sum(script.stat().st_size for script in scripts) <= 150_000
