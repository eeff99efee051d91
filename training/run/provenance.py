"""The code that a run starts with: git commit and package versions."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Final

_PACKAGES: Final = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "pillow",
    "numpy",
    "scikit-learn",
)


def describe_code() -> dict[str, Any]:
    """Return `git_commit` and `packages`, two fields of RunConfig."""
    packages = {name: metadata.version(name) for name in _PACKAGES} | {
        "python": platform.python_version()
    }
    return {"git_commit": _git_commit(), "packages": packages}


def _git_commit() -> str | None:
    """The commit of this checkout, with `-dirty` for changed files; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent)]
    command += ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, check=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
