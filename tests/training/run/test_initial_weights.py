"""Trained weights to begin with: from a file, from torchvision, from the store; the head made to fit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from model_store.store import ModelStore
from training.errors import InitialWeightsError
from training.learning.networks import build_network
from training.learning.normalization import Normalization
from training.promotion import create_store
from training.run.directory import Run
from training.run.initial_weights import fit_head
from training.run.request import RunRequest, start_run
from training.run.weights import INITIAL_WEIGHTS, read_weights


def state_of(architecture: str, classes: int) -> dict[str, torch.Tensor]:
    """Weights of some training."""
    torch.manual_seed(1)
    return build_network(architecture, classes).state_dict()


def start_with(path: Path, tmp_path: Path, architecture: str | None = "resnet18") -> Run:
    """A run that begins with this file."""
    wish = RunRequest(("digits",), architecture, recipe="finetune", start=str(path), image_size=32)
    return start_run(wish, tmp_path / "runs", ModelStore(tmp_path / "store"))[0]


def write_pth(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(state, path)


def write_wrapped(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path
    )


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.pth", write_pth), ("b.pth", write_wrapped), ("c.safetensors", save_file)],
)
def test_a_state_dict_with_torchvisions_names_is_taken(
    tmp_path: Path, name: str, write: Callable[..., None]
) -> None:
    """As .pth, as a training script wraps it, as .safetensors: the body is kept, the head is new, ImageNet's normalisation."""
    state = resnet18(num_classes=1000).state_dict()
    write(state, tmp_path / name)
    start = read_weights(start_with(tmp_path / name, tmp_path).path / INITIAL_WEIGHTS)
    taken = start.network.state_dict()
    assert taken["fc.weight"].shape == (10, 512)
    assert all(
        torch.equal(value, taken[key]) for key, value in state.items() if not key.startswith("fc.")
    )
    assert torch.equal(start.normalize.mean, Normalization.imagenet().mean)


def test_a_runs_own_weights_bring_their_normalisation_along(
    finished_run: Run, tmp_path: Path
) -> None:
    """A file of this project says what pixels it expects."""
    start = read_weights(
        start_with(finished_run.path / "best.safetensors", tmp_path, "resnet20").path
        / INITIAL_WEIGHTS
    )
    assert (
        start.normalize.to_json()
        == read_weights(finished_run.path / "best.safetensors").normalize.to_json()
    )
    with pytest.raises(
        InitialWeightsError, match="is a resnet20, not a resnet18: give --arch resnet20"
    ):
        start_with(finished_run.path / "best.safetensors", tmp_path)


def test_a_small_image_stem_begins_anew() -> None:
    """Its first convolution has another size; everything else is taken."""
    state = resnet18(num_classes=1000).state_dict()
    small = fit_head(
        state, (), Normalization.imagenet(), "resnet18-small", ("a", "b"), "x"
    ).network.state_dict()
    assert small["conv1.weight"].shape == (64, 3, 3, 3)
    assert torch.equal(small["layer3.0.conv1.weight"], state["layer3.0.conv1.weight"])


def test_the_head_grows_and_keeps_the_rows_of_the_classes_it_knew() -> None:
    """By name, wherever they stand now."""
    state = state_of("resnet20", 3)
    grown = fit_head(
        state,
        ("cat", "dog", "fox"),
        Normalization.imagenet(),
        "resnet20",
        ("fox", "newt", "cat", "dog"),
        "x",
    )
    weight, bias = (grown.network.get_parameter(f"fc.{part}") for part in ("weight", "bias"))
    for new, old in ((0, 2), (2, 0), (3, 1)):
        assert torch.equal(weight[new], state["fc.weight"][old])
        assert torch.equal(bias[new], state["fc.bias"][old])
    assert not any(torch.equal(weight[1], row) for row in state["fc.weight"])


class RunsCode:
    """Pickled, this would write a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path) -> None:
    """Only tensors are loaded."""
    torch.save({"conv1.weight": RunsCode(tmp_path / "owned")}, tmp_path / "bad.pth")
    with pytest.raises(
        InitialWeightsError, match=r"bad\.pth can not be read as weights: .*never code"
    ):
        start_with(tmp_path / "bad.pth", tmp_path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("layer1.0.conv1.weight"), "layer1.0.conv1.weight is missing"),
        (
            lambda state: state.update({"layer9.weight": torch.zeros(1)}),
            "layer9.weight is not in it",
        ),
        (
            lambda state: state.update({"layer1.0.conv1.weight": torch.zeros(1)}),
            "layer1.0.conv1.weight has another shape",
        ),
    ],
)
def test_another_networks_weights_are_refused_with_the_first_difference(
    tmp_path: Path, spoil: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    """Nothing is taken in part."""
    state = state_of("resnet18", 10)
    spoil(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InitialWeightsError, match=message):
        start_with(tmp_path / "other.pth", tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not weights"])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    """In one line."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InitialWeightsError, match=f"{name} can not be read as weights"):
        start_with(tmp_path / name, tmp_path)


def test_without_a_network_torchvisions_weights_are_refused_with_the_way_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address to fetch, and the flag to give the file with; a file that torch has fetched before is used."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    wish = RunRequest(
        ("digits",), "resnet18", recipe="finetune", start="torchvision", image_size=32
    )
    with pytest.raises(
        InitialWeightsError, match=r"could not be downloaded .*resnet18-.*\.pth.*--start FILE"
    ):
        start_run(wish, tmp_path / "runs", ModelStore(tmp_path / "store"))


def test_a_version_without_weights_can_not_be_gone_on_from(
    finished_run: Run, tmp_path: Path
) -> None:
    """The built-in digits ship without them, for their size."""
    wish = RunRequest(("digits",), "resnet20", start="digits-resnet20", recipe="digits")
    with pytest.raises(InitialWeightsError, match="was published without its weights"):
        start_run(wish, tmp_path / "runs", ModelStore())


def test_without_a_network_named_it_is_that_of_the_weights(
    finished_run: Run, tmp_path: Path
) -> None:
    """A version of the store and a file of this project say what they are; another's file does not, and the default is taken."""
    for start, expected in (
        ("cifar10", "resnet32"),
        (str(finished_run.path / "best.safetensors"), "resnet20"),
    ):
        config = start_run(
            RunRequest(("digits",), start=start, recipe="finetune"), tmp_path / "runs", ModelStore()
        ).config
        assert (config.architecture, config.model) == (expected, f"digits-{expected}")
    save_file(state_of("resnet20", 10), tmp_path / "theirs.safetensors")
    assert (
        start_with(tmp_path / "theirs.safetensors", tmp_path, None).config.architecture
        == "resnet20"
    )


def test_a_new_store_can_begin_with_a_built_in_model(tmp_path: Path) -> None:
    """Its directory is made before anything is looked for in it."""
    store = ModelStore(tmp_path / "mine" / "store")
    create_store(store)
    assert (
        start_run(
            RunRequest(("digits",), start="cifar10", recipe="finetune"), tmp_path / "runs", store
        ).config.start
        == "cifar10"
    )
