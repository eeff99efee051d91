"""The wheel, installed in an empty environment, serves from any directory."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import httpx
import pytest
from server_process import PATIENCE_SECONDS, REPOSITORY, Output

PACKAGES = {"model_store", "resident", "service", "training"}
NOT_COPIED = shutil.ignore_patterns(".*", "build", "__pycache__", "*.egg-info", "runs", "models")
CLEAN = {name: value for name, value in os.environ.items()
         if not name.startswith(("SERVICE_", "PYTHON", "RESIDENT_"))}  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # downloads, if pip has no cache


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)]
    subprocess.run(command, env=CLEAN, check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools leaves its files beside the sources."""
    root = tmp_path_factory.mktemp("wheel")
    shutil.copytree(REPOSITORY, root / "source", ignore=NOT_COPIED)
    pip("wheel", "--no-deps", "--wheel-dir", root / "wheels", root / "source")
    (built,) = (root / "wheels").iterdir()
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment that has the wheel and what it declares, in locked versions."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, symlinks=True)
    python = root / "bin/python"
    locked = REPOSITORY / "requirements/service.txt"
    pip("--python", python, "install", "--require-hashes", "-r", locked)
    pip("--python", python, "install", "--no-index", f"resident[service] @ {wheel.as_uri()}")
    return root / "bin"


def test_wheel_contains_the_packages_with_their_data_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points, metadata = (
            archive.read(
                next(name for name in names if name.endswith(f".dist-info/{file}"))
            ).decode()
            for file in ("entry_points.txt", "METADATA")
        )
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    assert not [name for name in names if re.search(r"(^|/)(tests?|conftest)[/.]|/test_", name)]
    assert {
        "service/static/swagger-ui-bundle.js",
        "service/static/swagger-ui.css",
        "service/static/favicon.svg",
        "service/page/shell.html",
        "service/page/static/main.js",
        "model_store/builtin/cifar10/1/manifest.json",
        "model_store/builtin/cifar10/1/model.onnx",
        "training/reports/templates/report.html.j2",
    } <= names
    data = {
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("model_store/builtin", "resident", "service", "training")
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and path.suffix not in {".pyc", ".md"}
    }
    assert data <= names
    assert "resident = resident.cli:main" in entry_points
    required = Parser().parsestr(metadata).get_all("Requires-Dist") or []
    assert not [line for line in required if line.startswith("torch") and "extra" not in line]


def test_installed_wheel_serves_from_another_directory(scripts: Path, tmp_path: Path) -> None:
    """The page with its files, and a prediction by a built-in model, without torch."""
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "PATH": os.defpath}
    process = subprocess.Popen(
        [scripts / "resident", "serve", "--port", "0", "--store", tmp_path],
        cwd=tmp_path,
        env=CLEAN | home | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stderr
        stdout, stderr = Output(process.stdout), Output(process.stderr)
        announced = stdout.wait_for(r"^Resident \S+ on (http://\S+)$")
        assert announced, stderr.text
        with httpx.Client(
            base_url=announced[1],
            follow_redirects=True,
            timeout=PATIENCE_SECONDS,
            trust_env=False,
        ) as client:
            page = client.get("/")
            assert page.status_code == 200
            links = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
            assert "page/main.js" in links
            assert {client.get(link).status_code for link in links} == {200}
            image = (REPOSITORY / "docs/images/cat.jpg").read_bytes()
            answer = client.post("/v1/predict", content=image).json()
            assert answer["results"][0]["predictions"][0]["label"] == "cat"
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)
        stdout.wait_for_end()
        stderr.wait_for_end()
    installed = subprocess.run(
        [scripts / "python", "-c", "import torch"], cwd=tmp_path, check=False, capture_output=True
    )
    assert b"ModuleNotFoundError" in installed.stderr


def test_command_that_needs_another_extra_names_it(scripts: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [scripts / "resident", "train", "--help"],
        cwd=tmp_path, env=CLEAN, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode
    assert "[training]" in run.stderr
    assert "Traceback" not in run.stderr
