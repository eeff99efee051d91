"""An HTML page, parsed for tests."""

import re
from html.parser import HTMLParser

VOID = {"base", "meta", "img", "br", "link", "input", "hr"}
ADDRESSES = {
    "src",
    "href",
    "xlink:href",
    "srcset",
    "action",
    "formaction",
    "data",
    "poster",
    "background",
    "ping",
}


class Page(HTMLParser):
    """A parsed page: its elements with attributes and texts. Fails if an element is not closed."""

    def __init__(self, source: bytes) -> None:
        super().__init__()
        self.source = source.decode()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(self.source)
        self.close()
        assert not self._open, "an element was not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append((tag, []))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        opened, pieces = self._open.pop()
        assert opened == tag, f"{opened} was closed by {tag}"
        self.texts.append((tag, pieces))

    def handle_data(self, data: str) -> None:
        for _, pieces in self._open:
            pieces.append(data)

    def all(self, tag: str) -> list[str]:
        """The text of each of these elements, in the order of their ends."""
        return [" ".join("".join(pieces).split()) for name, pieces in self.texts if name == tag]

    def attributes(self, name: str) -> list[str]:
        """The values of this attribute."""
        return [attributes[name] for _, attributes in self.elements if name in attributes]

    @property
    def text(self) -> str:
        """All that is to be read."""
        (body,) = self.all("body")
        return body

    @property
    def cells(self) -> dict[tuple[int, int], int]:
        """The confusion matrix as it stands on the page: images by (label, answer)."""
        found = re.findall(r'<a id="at-(\d+)-(\d+)"[^>]*>(\d+)</a>', self.source)
        return {(int(label), int(predicted)): int(images) for label, predicted, images in found}

    def part(self, name: str) -> str:
        """The source of one section."""
        return self.source.partition(f'<section id="{name}">')[2].partition("</section>")[0]
