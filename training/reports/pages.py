"""Renders a template as one self-contained HTML page without scripts."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from training.data.image_set import escape_unprintable

REPORT_FILE: Final = "report.html"
"""Name of the report in the directory of a run and in a version."""
TEMPLATES: Final = Path(__file__).parent / "templates"
MISSING: Final = "\N{EN DASH}"


def render_page(template: str, **values: Any) -> bytes:
    """Fill the template with these values and encode it as UTF-8.

    Strings are escaped unless they are Markup. Unprintable characters are written as escapes.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_escape_strings,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": format_percent,
        "whole": partial(_format_number, kind=",d"),
        "decimals": _format_number,
        "time": format_time,
        "duration": format_duration,
    }
    return environment.get_template(template).render(values).encode()


def format_percent(share: float | None) -> str:
    """`0.12345` as `12.35%`."""
    return MISSING if share is None else f"{share:.2%}"


def format_time(text: str) -> str:
    """An ISO 8601 time as `3 February 2024 at 04:05 UTC`."""
    time = datetime.fromisoformat(text)
    return f"{time.day} {time:%B %Y} at {time:%H:%M} {time.tzname() or ''}".rstrip()


def format_duration(seconds: float) -> str:
    """Seconds as `h:mm:ss`, or with one decimal below a minute."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values by dotted name. Strings stay, other values become JSON.

    None and empty lists are left out.
    """
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            flat[prefix + name] = value
        elif value is not None and value not in ([], ()):
            flat[prefix + name] = json.dumps(value, ensure_ascii=False)
    return flat


def _format_number(value: float | None, kind: str = ".4f") -> str:
    return MISSING if value is None else format(value, kind)


def _escape_strings(value: Any) -> Any:
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return escape_unprintable(value) if is_text else value
