"""benchmarks/RESULTS.md: a section for each measurement, with the machine that it was made on, so that one can be renewed."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from machine import ROOT, describe_machine

RESULTS = ROOT / "benchmarks/RESULTS.md"
PACKAGES = ("fastapi", "uvicorn", "onnxruntime", "numpy", "pillow", "pydantic")
ORDER = (
    "ResNet-20, 32x32 PNG",
    "ResNet-50, 500x375 JPEG",
    "One client at a time",
    "Overload",
    "Start",
    "Reloads",
    "Memory to decode",
)
HEAD = """# Results

Written by `make bench`, a section at a time: `make bench ARGS="--only start"` renews one. Ratios are taken turn by turn, both sides
in one run. What a person has found out about a figure stands in lines that begin with `>`; they are kept when it is measured again.
"""


def write_section(title: str, lines: Sequence[str], path: Path = RESULTS) -> None:
    """Put a section in its place, or renew it; its lines that begin with `>` stay."""
    sections = read_sections(path)
    notes = [line for line in sections.get(title, "").splitlines() if line.startswith(">")]
    body = [
        f"Measured on {describe_machine(PACKAGES)}.",
        "",
        *lines,
        *([""] if notes else []),
        *notes,
    ]
    sections[title] = "\n".join(body)
    known = [title for title in ORDER if title in sections]
    titles = [*known, *(title for title in sections if title not in known)]
    path.write_text(
        "\n".join([HEAD, *(f"## {title}\n\n{sections[title].strip()}\n" for title in titles)]),
        encoding="utf-8",
    )


def read_sections(path: Path = RESULTS) -> dict[str, str]:
    """What stands under each heading."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def spread(values: np.ndarray, form: str = "{:.2f}") -> str:
    """Median, and where there are several the range."""
    middle = form.format(float(np.median(values)))
    return (
        middle
        if len(values) == 1
        else f"{middle} ({form.format(values.min())} to {form.format(values.max())})"
    )
