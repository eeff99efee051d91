"""A weights file that cannot be read: the error says what the file is, and what to do."""

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.errors import InitialWeightsError
from training.run.foreign_weights import read_foreign_weights

WEIGHTS = {"conv1.weight": torch.zeros(64, 3, 7, 7)}


class RunsProgram:
    """Runs a program if it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def torch_file(path: Path, content: object, **options: Any) -> None:
    torch.save(content, path, **options)


def cut(path: Path, **options: Any) -> None:
    torch.save(WEIGHTS, path, **options)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: path.touch(), ["is empty"]),
        (lambda path: path.write_text("<!DOCTYPE html>\n<html>"), ["<!DOCTYPE html>"]),
        (lambda path: path.write_text("hello " * 20), ["hello hello"]),
        (cut, ["cut off"]),
        (lambda path: cut(path, _use_new_zipfile_serialization=False), ["cut off"]),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), ["pickle", "safetensors."]),
        (
            lambda path: path.write_bytes(pickle.dumps({"a": np.ones(3)})),
            ["numpy", "_reconstruct", "safetensors.torch.save_file"],
        ),
        (
            lambda path: torch_file(path, {"x": argparse.Namespace(a=1)}, pickle_protocol=4),
            ["argparse.Namespace", "safetensors.torch.save_file"],
        ),
        (
            lambda path: torch_file(
                path,
                {**WEIGHTS, "x": argparse.Namespace(a=1)},
                pickle_protocol=4,
                _use_new_zipfile_serialization=False,
            ),
            ["argparse.Namespace", "safetensors.torch.save_file"],
        ),
        (
            lambda path: torch_file(path, {**WEIGHTS, "x": RunsProgram()}),
            [f"{os.system.__module__}.system", "not run", "safetensors.torch.save_file"],
        ),
    ],
)
def test_the_file_is_described_and_torchs_advice_is_not_repeated(
    tmp_path: Path, write: Callable[[Path], object], words: list[str]
) -> None:
    """torch advises `weights_only=False`, which runs code from the file."""
    write(tmp_path / "x.pth")
    with pytest.raises(InitialWeightsError) as raised:
        read_foreign_weights(tmp_path / "x.pth")
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert "weights_only" not in message
    assert len(message.splitlines()) == 1


def test_a_damaged_safetensors_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"abc" * 20)
    with pytest.raises(InitialWeightsError, match="safetensors file"):
        read_foreign_weights(tmp_path / "x.safetensors")
