"""Settings and API keys reach every replica of docker compose."""

from pathlib import Path

import httpx
import pytest
from clients import IMAGE
from compose_project import MakeProject, Project

from service.settings import Settings

VARIABLES = [f"SERVICE_{name.upper()}" for name in Settings.model_fields]


def predict(project: Project, container: str, key: str = "") -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with project.client(container) as client:
        return client.post("/v1/predict", content=IMAGE, headers=headers).status_code


@pytest.mark.parametrize("source", ["shell", "file"])
def test_every_setting_reaches_the_container(
    source: str, make_project: MakeProject, tmp_path: Path
) -> None:
    """From the shell as from the file that .env.example becomes."""
    values = {name: f"value-of-{name}" for name in VARIABLES} | {"SERVICE_PORT": "8000"}
    file = tmp_path / "env"
    if source == "shell":
        file.touch()
        project = make_project(**values)
    else:
        file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        project = make_project()
        del project.environment["SERVICE_KEYS"]
    printed = project.compose(
        *("--env-file", str(file), "run", "--rm", "--no-deps", "--entrypoint", "env", "service")
    ).stdout
    reached = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
    assert {name: reached.get(name) for name in VARIABLES} == values


def test_without_a_setting_the_image_decides(make_project: MakeProject) -> None:
    """No variable is passed that is not set, so the image's values stay."""
    project = make_project()
    del project.environment["SERVICE_KEYS"]
    command = ("run", "--rm", "--no-deps", "--entrypoint", "env", "service")
    printed = project.compose(*command).stdout
    found = {line for line in printed.splitlines() if line.startswith("SERVICE_")}
    assert found == {
        "SERVICE_HOST=0.0.0.0",
        "SERVICE_STORE=/models",
        "SERVICE_CACHE=/cache/resident",
        "SERVICE_KEYS=/keys/keys.json",
    }


def test_replicas_share_keys_and_none_starts_open(make_project: MakeProject) -> None:
    """Without the key file, a replica does not start; with it, all of them require the keys."""
    project = make_project()
    del project.environment["SERVICE_KEYS"]
    refused = project.compose("run", "--rm", "--no-deps", "service", check=False)
    assert refused.returncode == 2, refused.stderr

    add = ("run", "--rm", "--no-deps", "service", "keys", "add")
    secret = project.compose(*add, "app", "--scope", "predict").stdout.split()[0]
    replicas = project.up("service", replicas=2)
    for replica in replicas:
        assert predict(project, replica) == httpx.codes.UNAUTHORIZED
        assert predict(project, replica, secret) == httpx.codes.OK

    project.docker("exec", replicas[0], "rm", "/keys/keys.json")
    for replica in replicas:  # those that run keep the keys
        assert predict(project, replica) == httpx.codes.UNAUTHORIZED
    refused = project.compose("run", "--rm", "--no-deps", "service", check=False)
    assert refused.returncode == 2, refused.stderr
