"""Initial weights: from a file, torchvision or the store, with a head for the classes."""

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
from training.run import request as requests
from training.run.directory import Run
from training.run.initial_weights import fit_head
from training.run.known_images import NOT_RECORDED
from training.run.request import RunRequest, start_run
from training.run.weights import BEST_WEIGHTS, INITIAL_WEIGHTS, read_weights


def state_of(architecture: str, classes: int) -> dict[str, torch.Tensor]:
    """Return random weights."""
    torch.manual_seed(1)
    return build_network(architecture, classes).state_dict()


def start_from(
    start: Path | str,
    tmp_path: Path,
    architecture: str | None = "resnet18",
    store: ModelStore | None = None,
) -> Run:
    """Start a run from these weights."""
    request = RunRequest(
        ("digits",), architecture, recipe="finetune", start=str(start), image_size=(32, 32)
    )
    return start_run(request, tmp_path / "runs", store or ModelStore(tmp_path / "store"))[0]


def write_pth(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(state, path)


def write_wrapped(state: dict[str, torch.Tensor], path: Path) -> None:
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.pth", write_pth), ("b.pth", write_wrapped), ("c.safetensors", save_file)],
)
def test_a_state_dict_with_torchvisions_names_is_loaded(
    tmp_path: Path, name: str, write: Callable[..., None]
) -> None:
    """The body is kept, the head is new, and the normalization is ImageNet's."""
    state = resnet18(num_classes=1000).state_dict()
    write(state, tmp_path / name)
    initial = read_weights(start_from(tmp_path / name, tmp_path).path / INITIAL_WEIGHTS)
    loaded = initial.network.state_dict()
    assert loaded["fc.weight"].shape == (10, 512)
    body = {key: value for key, value in state.items() if not key.startswith("fc.")}
    assert all(torch.equal(value, loaded[key]) for key, value in body.items())
    assert torch.equal(initial.normalize.mean, Normalization.imagenet().mean)


def test_a_file_of_this_project_includes_its_normalization(
    finished_run: Run, tmp_path: Path
) -> None:
    """It also names its network. Another network is rejected before a run is created."""
    path = finished_run.path / BEST_WEIGHTS
    initial = read_weights(start_from(path, tmp_path, "resnet20").path / INITIAL_WEIGHTS)
    assert initial.normalize.to_json() == read_weights(path).normalize.to_json()
    other = tmp_path / "other"
    with pytest.raises(InitialWeightsError, match=r"resnet20.*resnet18.*--arch resnet20"):
        start_from(path, other)
    assert not other.exists()


def test_a_small_image_network_gets_a_new_first_convolution() -> None:
    """It has another size. All other weights are kept."""
    state = resnet18(num_classes=1000).state_dict()
    small = fit_head(state, (), Normalization.imagenet(), "resnet18-small", ("a", "b"), "x")
    weights = small.network.state_dict()
    assert weights["conv1.weight"].shape == (64, 3, 3, 3)
    assert torch.equal(weights["layer3.0.conv1.weight"], state["layer3.0.conv1.weight"])


def test_the_head_keeps_the_rows_of_known_classes() -> None:
    """Rows are matched by the name of the class; a new class gets a new row."""
    state = state_of("resnet20", 3)
    old, new = ("cat", "dog", "fox"), ("fox", "newt", "cat", "dog")
    grown = fit_head(state, old, Normalization.imagenet(), "resnet20", new, "x")
    weight, bias = (grown.network.get_parameter(f"fc.{part}") for part in ("weight", "bias"))
    for new_row, old_row in ((0, 2), (2, 0), (3, 1)):
        assert torch.equal(weight[new_row], state["fc.weight"][old_row])
        assert torch.equal(bias[new_row], state["fc.bias"][old_row])
    assert not any(torch.equal(weight[1], row) for row in state["fc.weight"])


class RunsCode:
    """Writes a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_code_in_a_weight_file_does_not_run(tmp_path: Path) -> None:
    """The file is rejected."""
    torch.save({"conv1.weight": RunsCode(tmp_path / "executed")}, tmp_path / "bad.pth")
    with pytest.raises(InitialWeightsError, match=r"bad\.pth"):
        start_from(tmp_path / "bad.pth", tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("layer1.0.conv1.weight"), r"layer1\.0\.conv1\.weight is missing"),
        (lambda state: state.update({"layer9.weight": torch.zeros(1)}), r"layer9\.weight"),
        (
            lambda state: state.update({"layer1.0.conv1.weight": torch.zeros(1)}),
            r"layer1\.0\.conv1\.weight has another shape",
        ),
    ],
)
def test_weights_of_another_network_are_rejected(
    tmp_path: Path, damage: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    """The error names the first difference."""
    state = state_of("resnet18", 10)
    damage(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InitialWeightsError, match=message):
        start_from(tmp_path / "other.pth", tmp_path)


@pytest.mark.parametrize("name", ["conv1.weight", "bn1.running_mean", "layer4.1.bn2.bias"])
def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path, name: str) -> None:
    """Also the first layer's: a run would train on a random one. The error names the tensor."""
    state = state_of("resnet18", 10)
    del state[name]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(InitialWeightsError, match=rf"{name} is missing"):
        start_from(tmp_path / "part.pth", tmp_path)


@pytest.mark.parametrize("lacks", [True, False])
def test_a_new_first_convolution_is_recorded(tmp_path: Path, *, lacks: bool) -> None:
    """Only a small-image network may lack it; its configuration says so."""
    state = state_of("resnet18", 10)
    if lacks:
        del state["conv1.weight"]
    torch.save(state, tmp_path / "large.pth")
    run = start_from(tmp_path / "large.pth", tmp_path, "resnet18-small")
    stem, not_recorded = run.config.start_changes
    assert stem.split()[1] == "conv1.weight"
    assert not_recorded == NOT_RECORDED
    torch.save(state_of("resnet18-small", 10), tmp_path / "small.pth")
    run = start_from(tmp_path / "small.pth", tmp_path, "resnet18-small")
    assert run.config.start_changes == (NOT_RECORDED,)


@pytest.mark.parametrize("name", ["best.pth.tar", "x.ckpt", "../x.pth", "weights/x"])
def test_a_path_is_not_a_model_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its prefix is removed, which the configuration says; a missing file is named."""
    (tmp_path / "here" / "weights").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    state = {f"model.{key}": value for key, value in state_of("resnet18", 10).items()}
    torch.save({"state_dict": state}, name)
    config = start_from(name, tmp_path).config
    assert "model." in config.start_changes[0]
    assert Path(name).name in config.command.split()
    Path(name).unlink()
    if name != "weights/x":
        with pytest.raises(InitialWeightsError, match="there is no file"):
            start_from(name, tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not weights"])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    """The error is one line."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InitialWeightsError, match=name):
        start_from(tmp_path / name, tmp_path)


def test_a_failed_download_names_the_address_and_the_option_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is created."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(InitialWeightsError, match=r"resnet18-.*\.pth.*--start FILE"):
        start_from("torchvision", tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_version_without_weights_is_rejected(tmp_path: Path) -> None:
    """The built-in digits are published without weights."""
    with pytest.raises(InitialWeightsError, match="without its weights"):
        start_from("digits-resnet20", tmp_path, "resnet20", ModelStore())


def test_the_network_is_that_of_the_weights_if_none_is_named(
    finished_run: Run, tmp_path: Path
) -> None:
    """Versions and files of this project name it. Other files do not, and the default is used."""
    save_file(state_of("resnet20", 10), tmp_path / "foreign.safetensors")
    for start, expected in (
        ("cifar10", "resnet32"),
        (finished_run.path / BEST_WEIGHTS, "resnet20"),
        (tmp_path / "foreign.safetensors", "resnet20"),
    ):
        config = start_from(start, tmp_path, None, ModelStore()).config
        assert (config.architecture, config.model) == (expected, f"digits-{expected}")
        assert config.start == str(start)


def test_a_new_store_includes_the_built_in_models(tmp_path: Path) -> None:
    """A run can start from one of them."""
    store = ModelStore(tmp_path / "mine" / "store")
    store.create()
    assert start_from("cifar10", tmp_path, None, store).config.start == "cifar10"


def test_a_run_reads_its_weights_and_lists_its_images_once(
    finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`start_run` passes both on."""
    calls = []
    for name in ("load_initial_weights", "load_images"):
        original = getattr(requests, name)

        def counted(*values: object, name: str = name, original: Callable = original) -> object:
            calls.append(name)
            return original(*values)

        monkeypatch.setattr(requests, name, counted)
    start_from(finished_run.path / BEST_WEIGHTS, tmp_path, None)
    assert sorted(calls) == ["load_images", "load_initial_weights"]
