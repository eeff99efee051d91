"""The parts of docker-compose.yml and .env.example that list the service's settings."""

import json
import textwrap
from pathlib import Path

from service.settings import ENVIRONMENT_PREFIX, Settings

ROOT = Path(__file__).parents[1]
BEGIN = "# Settings of the service, written by `make reference`.\n"
END = "# End of the settings.\n"
IN_THE_IMAGE = {
    "host": "0.0.0.0",  # noqa: S104  the container's own network
    "store": "/models",
    "cache": "/cache/resident",
    "keys": "/keys/keys.json",
}


def files_with_settings() -> dict[Path, str]:
    """The content that each file should have, by path."""
    compose, example = ROOT / "docker-compose.yml", ROOT / ".env.example"
    names = [f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in Settings.model_fields]
    return {
        compose: _replaced(compose, "".join(f"      {name}:\n" for name in names) + " " * 6),
        example: _replaced(example, "".join(_example(name) for name in Settings.model_fields)),
    }


def _replaced(path: Path, settings: str) -> str:
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} must have the lines {BEGIN!r} and {END!r}")
    return before + begin + settings + end + after


def _example(name: str) -> str:
    field = Settings.model_fields[name]
    value = IN_THE_IMAGE.get(name, field.get_default())
    if isinstance(value, bool):
        value = json.dumps(value)
    default = "" if value is None or value == {} else value
    comment = textwrap.wrap(field.description or "", 98)
    return "\n".join(
        [*(f"# {line}" for line in comment), f"#{ENVIRONMENT_PREFIX}{name.upper()}={default}", ""]
    )
