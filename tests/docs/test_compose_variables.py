"""docker-compose.yml and .env.example name the same variables."""

import re
from pathlib import Path

from service.settings import Settings

ROOT = Path(__file__).parents[2]


def test_every_variable_of_the_compose_files_is_in_the_example() -> None:
    """`.env.example` lists what docker-compose.yml and its overrides read."""
    listed = {
        line.removeprefix("#").partition("=")[0]
        for line in (ROOT / ".env.example").read_text().splitlines()
        if line.startswith("#") and line[1:2].isupper()
    }
    read = {
        part.split("}")[0].split(":")[0].split("-")[0]
        for path in ROOT.glob("docker-compose*.yml")
        for part in path.read_text().split("${")[1:]
    }
    assert read <= listed
    assert {f"SERVICE_{name.upper()}" for name in Settings.model_fields} <= listed


def test_the_example_has_the_values_of_the_image() -> None:
    """The image requires a key file, and keeps data on its volumes."""
    image = re.findall(r"(SERVICE_\w+=\S+)", (ROOT / "Dockerfile").read_text())
    assert "SERVICE_KEYS=/keys/keys.json" in image
    listed = (ROOT / ".env.example").read_text().splitlines()
    assert {f"#{variable}" for variable in image} <= set(listed)
