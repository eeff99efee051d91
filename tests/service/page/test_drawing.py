"""Drawing by hand, in a real browser."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

TWO = [(0.3, 0.3), (0.45, 0.15), (0.65, 0.25), (0.6, 0.45), (0.3, 0.82), (0.7, 0.82)]
CENTROID = """canvas => {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  let [sum, x, y] = [0, 0, 0];
  for (let pixel = 0; pixel < data.length / 4; pixel += 1) {
    const alpha = data[pixel * 4 + 3];
    sum += alpha;
    x += alpha * (pixel % width);
    y += alpha * Math.floor(pixel / width);
  }
  return [x / sum / width, y / sum / height];
}"""
"""Centre of the opacity of a canvas, as shares of its width and height."""


def draw(page: "Page", points: list[tuple[float, float]]) -> None:
    box = page.locator(".board canvas").first.bounding_box()
    assert box
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for x, y in at[1:]:
        page.mouse.move(x, y, steps=5)
    page.mouse.up()


def test_drawn_digit_is_recognised(page: "Page") -> None:
    """The board opens by itself for a model whose labels are single characters.

    A small drawing in a corner is centred before it is sent, and the map lies over the corner.
    """
    page.select_option("#model", "digits-resnet20")
    page.wait_for_selector(".board canvas")
    draw(page, [(x * 0.4, y * 0.4) for x, y in TWO])
    page.locator(".verdict .label", has_text="2").wait_for()
    heat = page.locator(".board canvas.heat:visible")
    heat.wait_for()
    assert heat.get_attribute("data-label") == "2"
    assert heat.bounding_box() == page.locator(".board canvas").first.bounding_box()
    left, top = heat.evaluate(CENTROID)
    assert 0.1 < left < 0.4
    assert 0.05 < top < 0.4
    page.get_by_role("button", name="Clear").click()
    heat.wait_for(state="detached")
