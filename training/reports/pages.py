"""Pages: a template filled into one HTML file that needs nothing beside itself, no network and no script."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from training.data.image_set import escape_unprintable

TEMPLATES: Final = Path(__file__).parent / "templates"
MISSING: Final = "\N{EN DASH}"


def fill(template: str, **values: Any) -> bytes:
    """The template with these values: every text that is not Markup is escaped, and what can not be shown written out."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "whole": partial(_number, kind=",d"),
        "decimals": _number,
        "moment": moment,
        "duration": duration,
    }
    return environment.get_template(template).render(values).encode()


def percent(share: float | None) -> str:
    """A share as per cent with two digits behind the point."""
    return MISSING if share is None else f"{share:.2%}"


def moment(text: str) -> str:
    """An ISO 8601 time as a person writes it."""
    time = datetime.fromisoformat(text)
    return f"{time.day} {time:%B %Y} at {time:%H:%M} {time.tzname() or ''}".rstrip()


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, or with one digit behind the point where they are few."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values under dotted names, each as TOML would write it; what is None or empty is left out."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        elif value is not None and value not in ([], ()):
            flat[prefix + name] = (
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            )
    return flat


def _number(value: float | None, kind: str = ".4f") -> str:
    return MISSING if value is None else format(value, kind)


def _finalized(value: Any) -> Any:
    return (
        escape_unprintable(value)
        if isinstance(value, str) and not isinstance(value, Markup)
        else value
    )
