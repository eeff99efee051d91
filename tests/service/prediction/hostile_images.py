"""Images at which a decoder process loops, allocates or crashes, as a fault of a codec would do."""

import os
from pathlib import Path
from typing import Final

import pytest
from colour_model import plain
from server_process import REPOSITORY

LOOPS, ALLOCATES, CRASHES = (701, 300), (702, 300), (703, 300)
LOSES_MEMORY_ERROR = (704, 300)
_HOOK: Final = f"""
import os
from PIL import ImageFile

load = ImageFile.ImageFile.load

def hostile_load(image):
    while image.size == {LOOPS}:
        pass
    while image.size == {ALLOCATES}:
        image.info.setdefault("leak", []).append(bytearray(b"x") * 2**20)
    if image.size == {CRASHES}:
        os.abort()
    if image.size == {LOSES_MEMORY_ERROR}:
        raise SystemError("error return without exception set")
    return load(image)

ImageFile.ImageFile.load = hostile_load
"""
_UNCHECKED: Final = """
from model_store import image_structure

image_structure.check_structure = lambda kind, data: None
"""


def hostile_environment(folder: Path, *, unchecked: bool = False) -> dict[str, str]:
    """Variables under which Python processes decode images of these sizes like this.

    Args:
        folder: Receives a module that Python imports at its start.
        unchecked: Also leave out the checks of `model_store.image_structure`.
    """
    (folder / "sitecustomize.py").write_text(_HOOK + (_UNCHECKED if unchecked else ""))
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(REPOSITORY)))}


def hostile(size: tuple[int, int]) -> bytes:
    return plain("red", size=size)


@pytest.fixture
def hostile_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoder processes that are started from now on fail at the images of this module."""
    for name, value in hostile_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
