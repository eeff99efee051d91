"""Checkpoints: the state that a killed run resumes from."""

import io
import pickle
import zipfile
from typing import Any, Final

import torch

from training.run.directory import RunDirectory, damaged_file_error

CHECKPOINT_FILE: Final = "checkpoint.pt"


def save_checkpoint(run: RunDirectory, state: dict[str, Any]) -> None:
    """Replace the checkpoint in one step. A crash or a full disk keeps the previous one."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    run.write(CHECKPOINT_FILE, buffer.getbuffer())


def load_checkpoint(run: RunDirectory) -> dict[str, Any] | None:
    """Return the newest checkpoint, or None if there is none. Never runs code from the file.

    Raises:
        RunError: The file is damaged.
    """
    if not run.has(CHECKPOINT_FILE):
        return None
    path = run.path / CHECKPOINT_FILE
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:  # torch's message advises to run code from the file
        raise damaged_file_error(path, ValueError("a training did not write it")) from None
    except (OSError, RuntimeError, zipfile.BadZipFile, EOFError) as error:
        raise damaged_file_error(path, error) from None
    return state
