"""Explains why a file cannot be read as weights, what it contains, and what to do.

torch's own messages advise `weights_only=False`, which runs code from the file.
"""

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from training.run.pickled_tensors import LEGACY_PICKLES

MAX_NAMES: Final = 5
_HEAD_BYTES: Final = 40
_ADVICE: Final = (
    "Resident never runs code from a file. If you trust the file, load it, save its tensors "
    'with safetensors.torch.save_file(state_dict, "weights.safetensors"), and give that file'
)
_FORMS: Final = "give a file that torch.save or safetensors wrote"


def describe_unreadable(path: Path, error: Exception) -> str:
    """Return one or two sentences about a file that torch or safetensors refused."""
    if isinstance(error, OSError):
        return f"{path} cannot be read: {error.strerror or error}"
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return f"{path} is empty; get the file again, or {_FORMS}"
    text = str(error)
    if blocked := re.search(r"unsupported GLOBAL (\S+)", text):
        return f"{path} calls {blocked[1]}, which weights never need. It was not run. {_ADVICE}"
    if (head.startswith(b"PK") and not zipfile.is_zipfile(path)) or "unexpected EOF" in text:
        return f"{path} is cut off or damaged; get the file again"
    if head.startswith((b"PK", b"\x80")):
        names = _describe_names(path)
        return f"{path} is a pickle that torch.save did not write{names}. {_ADVICE}"
    if path.suffix.lower() == ".safetensors":
        return f"{path} is not a safetensors file, or it is damaged: {_first_line(text)}; {_FORMS}"
    shown = head.decode("ascii", "backslashreplace").splitlines()[0]
    return f"{path} does not contain weights: it begins with {shown!r}; {_FORMS}"


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0].rstrip(".") if text.strip() else "no reason is known"


def _describe_names(path: Path) -> str:
    """`: it holds A, B and 3 more`; nothing if the pickle names no class."""
    pickled = io.BytesIO(_read_pickle(path))
    names = sorted({name for _ in range(LEGACY_PICKLES) for name in _pickled_names(pickled)})
    if not names:
        return ""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f": it holds {', '.join(names[:MAX_NAMES])}{more}"


def _read_pickle(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl")]
        return archive.read(names[0]) if names else b""


def _pickled_names(data: BinaryIO) -> Iterator[str]:
    """Yield the full names of the classes and functions that the next pickle names."""
    strings: list[str] = []
    memo: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                yield str(argument).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:])
            elif opcode.name == "MEMOIZE":
                memo.append(strings[-1] if strings else "")
            elif opcode.name in {"BINGET", "LONG_BINGET"} and int(argument or 0) < len(memo):
                strings.append(memo[int(argument or 0)])
            elif isinstance(argument, str):
                strings.append(argument)
    except ValueError:  # the rest of the file is not a pickle
        return
