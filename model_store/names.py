"""Names of models and aliases, and version numbers: each has exactly one spelling."""

import re
from typing import Annotated, Final

from pydantic import StringConstraints

from model_store.errors import InvalidNameError

NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
VERSION_PATTERN: Final = r"[1-9][0-9]{0,17}"
MAX_VERSION: Final = 10**18 - 1
Name = Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")]


def is_name(text: str) -> bool:
    """Whether `text` is a name: 1 to 128 of `A-Z a-z 0-9 . _ -`, a letter or digit first."""
    return re.fullmatch(NAME_PATTERN, text, re.ASCII) is not None


def check_name(name: str, kind: str = "model") -> str:
    """Return `name`.

    Args:
        name: What the user gave.
        kind: What it names, for the message: `model`, `alias`, `key`.

    Raises:
        InvalidNameError: It is not a name as `is_name` defines it.
    """
    if not is_name(name):
        raise InvalidNameError(
            f"{name!r} is not a valid {kind} name: use 1 to 128 letters, digits, '.', '_' or '-', "
            "and begin with a letter or digit"
        )
    return name


def printable(text: str) -> str:
    """Escape what is not printable: control characters, and bytes of file names outside UTF-8.

    An untrusted name can then neither start a new line in a log nor make a response impossible to
    encode.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def is_version_name(text: str) -> bool:
    """Whether `text` is a positive integer without sign or leading zero: 7, not 07 or +7."""
    return re.fullmatch(VERSION_PATTERN, text, re.ASCII) is not None


def parse_version(text: str) -> int:
    """Return the version number that `text` spells.

    Raises:
        InvalidNameError: It is not a version number as `is_version_name` defines it.
    """
    if not is_version_name(text):
        raise InvalidNameError(
            f"{text!r} is not a version number: use a positive integer (7, not 07 or +7)"
        )
    return int(text)
