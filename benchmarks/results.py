"""Writes benchmarks/RESULTS.md: one section per measurement, with the machine it was made on."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from machine import ROOT, describe_machine

RESULTS = ROOT / "benchmarks/RESULTS.md"
PACKAGES = ("fastapi", "uvicorn", "onnxruntime", "numpy", "pillow", "pydantic")
ORDER = (
    "ResNet-20, 32x32 PNG",
    "ResNet-50, 500x375 JPEG",
    "Open Inference Protocol",
    "One client at a time",
    "Overload",
    "Start",
    "Reloads",
    "Memory to decode",
)
HEAD = """# Results

Written by `make bench`; `make bench ARGS="--only start"` measures one section again. Ratios are
computed round by round, with both sides in one run. Lines that begin with `>` are notes by people;
they are kept when a section is measured again.
"""


def write_section(title: str, lines: Sequence[str], path: Path = RESULTS) -> None:
    """Write a section in its place; lines of the old one that begin with `>` are kept."""
    sections = read_sections(path)
    notes = [line for line in sections.get(title, "").splitlines() if line.startswith(">")]
    body = [
        f"Measured on {describe_machine(PACKAGES)}.",
        "",
        *lines,
        *([""] if notes else []),
        *notes,
    ]
    sections[title] = "\n".join(map(_wrap, body))
    known = [title for title in ORDER if title in sections]
    titles = [*known, *(title for title in sections if title not in known)]
    path.write_text(
        "\n".join([HEAD, *(f"## {title}\n\n{sections[title].strip()}\n" for title in titles)]),
        encoding="utf-8",
    )


def _wrap(line: str) -> str:
    is_table_or_heading = line.startswith(("|", "#", ">"))
    return line if is_table_or_heading else textwrap.fill(line, 100, break_on_hyphens=False)


def read_sections(path: Path = RESULTS) -> dict[str, str]:
    """The text under each heading."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def spread(values: np.ndarray, form: str = "{:.2f}") -> str:
    """The median, and the range of several values."""
    median = form.format(float(np.median(values)))
    return (
        median
        if len(values) == 1
        else f"{median} ({form.format(values.min())} to {form.format(values.max())})"
    )
