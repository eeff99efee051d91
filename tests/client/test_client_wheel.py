"""The client's wheel, installed alone, has its types and brings httpx only."""

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "client"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # downloads, if pip has no cache


def test_the_wheel_has_the_package_with_types_and_requires_httpx_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps"]
    source = tmp_path / "source"
    for file in (
        path for path in CLIENT.rglob("*") if path.suffix in {".py", ".typed", ".toml", ".md"}
    ):
        copy = source / file.relative_to(CLIENT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    subprocess.run([*command, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA")))
    files = {name for name in names if ".dist-info/" not in name}
    modules = {f"resident_client/{path.name}" for path in CLIENT.glob("resident_client/*.py")}
    assert files == modules | {"resident_client/py.typed"}
    assert Parser().parsestr(metadata.decode()).get_all("Requires-Dist") == ["httpx>=0.28"]
