"""The shell commands of a documentation page, and how a test runs them.

A fence of `sh` is run as it stands. A comment above it changes that:

    <!-- run: background -->        runs until the page ends; the next fence waits until it answers
    <!-- run: no (why) -->          is not run, for the reason given
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_FENCE = re.compile(
    r"(?:^<!-- run: (?P<mode>background|no \([^)]+\)) -->\n)?^```sh\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Command:
    code: str
    mode: Literal["foreground", "background", "no"]


def commands_of(page: Path) -> list[Command]:
    found = []
    for match in _FENCE.finditer(page.read_text()):
        mode = (match["mode"] or "foreground").split()[0]
        found.append(Command(match["code"], mode))  # type: ignore[arg-type]
    return found
