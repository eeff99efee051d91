"""The facts in a sentence of a report."""

import re


def stated(text: str) -> str:
    """The networks, blocks and numbers of a sentence, in order, without the words between them."""
    found = re.findall(r"[a-z]+\d+(?:\.\d+)*|[-+]?\d+(?:[.,]\d+)*(?:e[-+]\d+)?", text)
    return " ".join(found)
