"""Checkpoints: everything that a run needs to go on, and nothing that runs code when it is loaded."""

import io
import pickle
import zipfile
from typing import Any

import torch

from training.run.directory import RunDirectory, damaged

CHECKPOINT_FILE = "checkpoint.pt"


def save_checkpoint(run: RunDirectory, state: dict[str, Any]) -> None:
    """Replace the run's checkpoint in one step; a crash or a full disk leaves the one before."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    run.write(CHECKPOINT_FILE, buffer.getbuffer())


def load_checkpoint(run: RunDirectory) -> dict[str, Any] | None:
    """The run's newest checkpoint, or None where there is none yet. Loads tensors and plain values only.

    Raises RunError where the file is damaged.
    """
    if not run.has(CHECKPOINT_FILE):
        return None
    try:
        state: dict[str, Any] = torch.load(
            run.path / CHECKPOINT_FILE, weights_only=True, map_location="cpu"
        )
    except (OSError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError) as error:
        raise damaged(run.path / CHECKPOINT_FILE, error) from None
    return state
