"""The service as other platforms start it: their options, their variable, their mounted models."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from colour_model import make_store, plain, publish
from server_process import REPOSITORY, ServerProcess, running

NO_LOCKS = """
import errno, fcntl
def flock(descriptor, operation):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
"""


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """One version, read-only, behind a symbolic link, as KServe mounts it at /mnt/models."""
    store = make_store(tmp_path / "store")
    publish(store)
    version = tmp_path / "volume/models"
    shutil.copytree(store.root / "colours/1", version)
    for path in (version, *version.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    link = tmp_path / "mnt"
    link.symlink_to(version)
    yield link
    for path in (version, *version.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def serving(server: ServerProcess) -> dict[str, int | None]:
    """The version that serves of each model, and which answers without a name."""
    with server.client() as client:
        listed = client.get("/v1/models").json()
        answer = client.post("/v1/predict", content=plain("red"))
        assert answer.status_code == 200
        assert answer.json()["model"] == listed["default_model"]
        assert answer.json()["results"][0]["predictions"][0]["label"] == "red"
        assert client.get("/health/ready").status_code == 200
    return {model["model"]: model["version"] for model in listed["models"]}


def test_kserve_starts_it_with_its_own_options(mounted: Path) -> None:
    """`running` gives --port 0 first; the later option with KServe's name wins."""
    arguments = ("--http_port=0", f"--model_dir={mounted}", "--model_name=roses", "--no_builtin")
    with running(*arguments) as server:
        assert serving(server.announced()) == {"roses": 1}


def test_a_directory_of_one_model_needs_no_name(tmp_path: Path) -> None:
    """Its aliases count, and its versions are followed."""
    store = make_store(tmp_path / "store")
    publish(store)
    publish(store)
    store.promote("colours", 1)
    with running("--model-dir", store.root / "colours", "--store-poll-seconds", "0.1") as server:
        found = serving(server.announced())
        assert found["colours"] == 1
        assert "cifar10" in found  # built-in models are served as well
        store.promote("colours", 2)
        assert server.stderr.wait_for(r"version draining model=colours version=1")
        assert serving(server)["colours"] == 2


def test_the_name_is_the_default_model_of_a_store(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    publish(store)
    with running("--store", store.root, "--model-name", "colours") as server:
        assert serving(server.announced())["colours"] == 1


def test_a_file_system_without_locks_is_logged_once(mounted: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(NO_LOCKS)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(site), str(REPOSITORY)]),
        "SERVICE_CACHE_MAX_BYTES": "0",
    }
    arguments = ("--store", mounted, "--no-builtin", "--store-poll-seconds", "0.05")
    with running(*arguments, environment=environment) as server:
        assert serving(server.announced()) == {"colours": 1}
    assert server.stderr.text.count("without locks") == 1


def test_the_variable_port_of_a_platform_is_used(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = ("--store", str(tmp_path / "store"))
    server = ServerProcess(*store, "--no-builtin", environment={"PORT": "0"})
    try:
        assert not server.listening().address.endswith(":8000")
    finally:
        server.end()
    server = ServerProcess(*store, environment={"PORT": "http"})
    assert server.wait() == 2
    assert "port" in server.stderr.text
