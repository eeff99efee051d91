"""The networks are the paper's: sizes, shapes, shortcuts, initialisation."""

import pytest
import torch

from training.errors import RecipeError
from training.networks import Subsample, build_network

# He et al. 2015, section 4.2, with option A: counted once by hand for n blocks a stage.
PARAMETERS = {"resnet20": 269_722, "resnet32": 464_154, "resnet44": 658_586, "resnet56": 853_018, "resnet110": 1_727_962}


@pytest.mark.parametrize(("architecture", "parameters"), PARAMETERS.items())
def test_a_network_has_the_papers_number_of_parameters(architecture: str, parameters: int) -> None:
    """6n+2 layers with shortcuts that cost nothing."""
    assert sum(parameter.numel() for parameter in build_network(architecture, 10).parameters()) == parameters


def test_a_network_of_20_layers_has_20_layers_with_weights() -> None:
    """Nineteen convolutions and one fully connected layer."""
    modules = list(build_network("resnet20", 10).modules())
    assert sum(isinstance(module, torch.nn.Conv2d) for module in modules) == 19
    assert sum(isinstance(module, torch.nn.Linear) for module in modules) == 1


def test_shapes() -> None:
    """Logits a class each, features at a quarter of the side."""
    network = build_network("resnet20", 7)
    x = torch.zeros(2, 3, 32, 32)
    assert network(x).shape == (2, 7)
    assert network.features(x).shape == (2, 64, 8, 8)


def test_the_shortcut_takes_every_second_pixel_and_pads_with_zero_channels() -> None:
    """Option A: no parameters, the old channels first."""
    x = torch.arange(2 * 4 * 4, dtype=torch.float32).reshape(1, 2, 4, 4)
    out = Subsample(4)(x)
    assert torch.equal(out[:, :2], x[:, :, ::2, ::2])
    assert not out[:, 2:].any()
    assert out.shape == (1, 4, 2, 2)


def test_convolutions_start_with_he_initialisation() -> None:
    """The deviation is sqrt(2 / fan-in), not torch's default."""
    torch.manual_seed(0)
    weight = build_network("resnet110", 10).layer3[5].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("name", ["resnet21", "resnet", "plain20x", "resnet-20", ""])
def test_an_unknown_architecture_is_refused_with_the_known_ones(name: str) -> None:
    """The message lists what there is."""
    with pytest.raises(RecipeError, match="resnet20, resnet32"):
        build_network(name, 10)
