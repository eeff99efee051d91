"""What a reconciliation opens: nothing that is known."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from colour_model import MODEL, publish
from registries import options

from model_store import aliases
from model_store.files import open_regular_below
from model_store.store import ModelStore
from model_store.version import Version
from service.versions.reconciler import reconcile
from service.versions.registry import Registry
from service.versions.version_policy import parse_policy


class Opened:
    """The files and directories of a store that this process opens, by Python's audit hook."""

    def __init__(self) -> None:
        self.root: Path | None = None
        self.files: list[str] = []
        self.listed: list[str] = []
        sys.addaudithook(self._see)  # hooks cannot be removed; without a root this one does nothing

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.root is None or event not in {"open", "os.listdir", "os.scandir"}:
            return
        path = arguments[0]
        if event == "os.listdir" and isinstance(path, int):
            path = str(Path(f"/proc/self/fd/{path}").readlink())
        opens_directory = event == "open" and (arguments[2] or 0) & os.O_DIRECTORY
        if not isinstance(path, str | Path) or opens_directory:
            return
        path = Path(path)
        if path.is_relative_to(self.root):
            (self.files if event == "open" else self.listed).append(
                str(path.relative_to(self.root))
            )

    @contextmanager
    def watching(self, root: Path) -> Iterator[None]:
        self.files, self.listed, self.root = [], [], root
        try:
            yield
        finally:
            self.root = None


@pytest.fixture(scope="module")
def opened() -> Opened:
    return Opened()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were hashed."""
    paths: list[Path] = []

    open_file = Version.open_file

    def see(version: Version, relative: str) -> FileIO:
        paths.append(version.path(relative))
        return open_file(version, relative)

    monkeypatch.setattr(Version, "open_file", see)
    return paths


def test_unchanged_store_is_only_listed(
    store: ModelStore, opened: Opened, hashed: list[Path]
) -> None:
    """An unchanged store is listed once per directory, and nothing is opened or hashed."""
    for name in ("one", "two", "three"):
        for number in (1, 2):
            publish(store, name)
            store.promote(name, number)
    registry = Registry(store, options)
    hashed.clear()  # publishing opens what it publishes
    with opened.watching(store.root):
        reconcile(registry)
    assert len(hashed) == 3 * (5 + 1)  # the model file when it is verified, and when it is loaded
    assert any(name.endswith("aliases/production") for name in opened.listed), (
        "the hook sees what is listed"
    )
    hashed.clear()
    with opened.watching(store.root):
        reconcile(registry)
    assert (opened.files, hashed) == ([], [])
    directories = [
        ".",
        *(
            f"{name}{rest}"
            for name in ("one", "two", "three")
            for rest in ("", "/aliases/production")
        ),
    ]
    assert sorted(opened.listed) == sorted(directories)
    registry.close()


def test_only_a_new_version_is_opened(
    store: ModelStore, opened: Opened, hashed: list[Path]
) -> None:
    """A new version is opened, and the others are not."""
    publish(store)
    publish(store, "other")
    registry = Registry(store, options, policy_of=lambda _: parse_policy("latest:2"))
    reconcile(registry)
    publish(store)
    hashed.clear()
    with opened.watching(store.root):
        reconcile(registry)
    assert hashed
    assert {
        path.parts[-2:][0] if path.parent.name != "golden" else path.parts[-3] for path in hashed
    } == {"2"}
    assert {name.split("/")[0] for name in opened.files} == {MODEL}
    assert not [name for name in opened.files if name.startswith(f"{MODEL}/1")]
    registry.close()


def test_only_a_moved_alias_is_read(
    store: ModelStore, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move reads the events of its alias only."""
    read: list[str] = []

    def see(directory: Path, relative: str) -> FileIO:
        read.append(str((directory / relative).relative_to(store.root)))
        return open_regular_below(directory, relative)

    for name in (MODEL, "other"):
        publish(store, name)
        store.promote(name, 1)
    registry = Registry(store, options)
    reconcile(registry)
    hashed.clear()
    store.promote(MODEL, 1)
    monkeypatch.setattr(aliases, "open_regular_below", see)
    reconcile(registry)
    assert read == [f"{MODEL}/aliases/production/0000000{number}.json" for number in (1, 2)]
    assert hashed == []
    registry.close()
