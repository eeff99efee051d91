"""Checkpoints of other projects are read as they come: only tensors, never code."""

import argparse
import contextlib
import io
import pathlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18

from training.errors import InitialWeightsError
from training.run.foreign_weights import read_foreign_weights
from training.run.initial_reference import names_weights_file


class AttributeDict(dict[str, Any]):
    """Like Lightning's: a dictionary of another package."""


class Callback:
    """An object of another package, with attributes."""

    def __init__(self) -> None:
        self.best = np.float32(0.5)
        self.monitors = ["loss"]


class History(list[float]):
    """A list of another package."""


STRANGERS: dict[str, Any] = {
    "args": argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("x")),
    "numpy scalar": np.float64(0.9),
    "numpy array": np.arange(3),
    "dict subclass": AttributeDict(lr=0.1),
    "object": Callback(),
    "class as a key": {Callback: {"best": 1.0}},
    "object as a key": {Callback(): 1},
    "list subclass": History([0.5, 0.25]),
    "defaultdict": defaultdict(list, loss=[1.0]),
    "random state": np.random.default_rng(0).bit_generator.state,
}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return resnet18(num_classes=3).state_dict()


def saved(folder: Path, content: object, name: str = "x.pth", **options: Any) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def require_equal(found: Any, state: dict[str, Tensor]) -> None:
    assert found.keys() == state.keys()
    assert all(torch.equal(value, found[name]) for name, value in state.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("stranger", STRANGERS)
def test_objects_beside_the_tensors_are_skipped(
    tmp_path: Path, state: dict[str, Tensor], stranger: str, *, zipped: bool
) -> None:
    content = {"model": state, "extra": STRANGERS[stranger], "epoch": 3}
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    weights = read_foreign_weights(path)
    require_equal(weights.state, state)
    assert "under model" in weights.changes[0]


@pytest.mark.parametrize(
    "key", ["state_dict", "model", "model_state_dict", "net", "network", "state_dict_ema"]
)
def test_the_state_dict_is_found_under_the_usual_keys(
    tmp_path: Path, state: dict[str, Tensor], key: str
) -> None:
    weights = read_foreign_weights(saved(tmp_path, {"epoch": 1, key: state}))
    require_equal(weights.state, state)
    assert key in weights.changes[0]


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "backbone.", "module.model.", "_orig_mod.module.", "x.1."],
)
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_the_prefix_of_a_wrapper_is_removed_and_said(
    tmp_path: Path, state: dict[str, Tensor], prefix: str, name: str
) -> None:
    renamed = {prefix + key: value for key, value in state.items()}
    if name.endswith(".safetensors"):
        save_file(renamed, tmp_path / name)
    else:
        saved(tmp_path, renamed, name)
    weights = read_foreign_weights(tmp_path / name)
    require_equal(weights.state, state)
    assert prefix.strip(".").split(".")[0] in " ".join(weights.changes)


def test_parts_that_were_compiled_one_by_one_keep_their_place(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    renamed = {key.replace("layer1.", "layer1._orig_mod."): value for key, value in state.items()}
    weights = read_foreign_weights(saved(tmp_path, renamed))
    require_equal(weights.state, state)
    assert "_orig_mod" in weights.changes[0]


@pytest.mark.parametrize(
    ("body", "head"),
    [
        ("", "head.fc"),
        ("backbone.", "head.fc"),
        ("backbone.", "classifier"),
        ("model.backbone.", "model.head"),
        ("", "fc.1"),
        ("model.", "model.fc.1"),
    ],
)
def test_the_last_layer_is_found_under_its_usual_names(
    tmp_path: Path, state: dict[str, Tensor], body: str, head: str
) -> None:
    renamed = {
        f"{head}.{key.removeprefix('fc.')}" if key.startswith("fc.") else body + key: value
        for key, value in state.items()
    }
    weights = read_foreign_weights(saved(tmp_path, renamed))
    require_equal(weights.state, state)
    assert "to fc" in weights.changes[-1]


def test_tensors_outside_of_the_network_are_left_out_and_named(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    """The loss of a Lightning module, or the counter of averaged weights."""
    renamed = {f"model.{key}": value for key, value in state.items()}
    weights = read_foreign_weights(
        saved(tmp_path, {**renamed, "criterion.weight": torch.ones(3), "n_averaged": torch.ones(1)})
    )
    require_equal(weights.state, state)
    assert "criterion.weight, n_averaged" in weights.changes[-1]


def test_several_networks_in_a_file_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    both = {f"{owner}.{key}": state[key] for owner in ("student", "teacher") for key in state}
    with pytest.raises(InitialWeightsError, match=r"student\., teacher\."):
        read_foreign_weights(saved(tmp_path, both))


def test_a_plain_state_dict_is_read_without_a_word(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    weights = read_foreign_weights(saved(tmp_path, OrderedDict(state)))
    require_equal(weights.state, state)
    assert weights.changes == ()


def whole_network(_: dict[str, Tensor]) -> object:
    return resnet18()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (whole_network, r"holds a torchvision\.models\.resnet\.ResNet, .*state_dict\(\)"),
        (lambda _: {"model": nn.Linear(2, 2)}, r"holds a torch\.nn\.modules\.linear\.Linear, "),
        (lambda _: {"conv1.weight": np.ones(3)}, r"holds 'conv1\.weight', a numpy.*_reconstruct"),
        (lambda state: {**state, "args": Callback()}, r"holds 'args', a .*Callback"),
        (lambda _: {}, "is empty"),
        (lambda _: [1], "holds a list"),
        (lambda _: {"model": {}}, "is empty"),
    ],
)
def test_the_object_in_place_of_tensors_is_named(
    tmp_path: Path,
    state: dict[str, Tensor],
    content: Callable[[dict[str, Tensor]], object],
    named: str,
) -> None:
    """The error says what to save instead."""
    with pytest.raises(InitialWeightsError, match=named):
        read_foreign_weights(saved(tmp_path, content(state)))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_archive_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(InitialWeightsError, match="TorchScript"):
        read_foreign_weights(tmp_path / "x.pt")


class RunsCode:
    """Calls a function if it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_code_beside_the_tensors_does_not_run(
    tmp_path: Path, state: dict[str, Tensor], *, zipped: bool
) -> None:
    """A known class, a method of a class, and a function: none is called."""
    for number, call in enumerate(
        (
            RunsCode(io.FileIO, str(tmp_path / "0"), "w"),
            RunsCode(Path.touch, tmp_path / "1"),
            RunsCode(exec, f"open({str(tmp_path / '2')!r}, 'w')"),
            RunsCode(eval, f"open({str(tmp_path / '3')!r}, 'w')"),
        )
    ):
        path = saved(tmp_path, {"model": state, "x": call}, _use_new_zipfile_serialization=zipped)
        with contextlib.suppress(InitialWeightsError):
            require_equal(read_foreign_weights(path).state, state)
        assert not (tmp_path / str(number)).exists()


@pytest.mark.parametrize(
    ("text", "is_file"),
    [
        ("best.pth.tar", True),
        ("x.ckpt", True),
        ("X.PTH", True),
        ("../x", True),
        ("/weights/x", True),
        ("~/x", True),
        ("a/b/c", True),
        ("net.onnx", True),
        ("my weights", True),
        ("here", True),
        ("cifar10", False),
        ("flowers/2", False),
        ("flowers/production", False),
        ("resnet.v2", False),
    ],
)
def test_files_are_told_from_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, *, is_file: bool
) -> None:
    """By suffix or path, or because the file exists."""
    monkeypatch.chdir(tmp_path)
    Path("here").touch()
    assert names_weights_file(text) == is_file
