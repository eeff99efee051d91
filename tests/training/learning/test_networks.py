"""Networks: sizes, costs, shortcuts and initialization of the papers, and one interface for all."""

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training.errors import RecipeError
from training.learning.architectures import (
    default_image_size,
    known_architectures,
    parse_architecture,
)
from training.learning.blocks import MultiplyAdd, ZeroPaddedShortcut
from training.learning.networks import (
    build_network,
    classify,
    features,
    fold_batch_norms,
    layer_groups,
    mirror_averaged,
)

# He et al. 2015, section 4.2, option A: depth, parameters and millions of multiply-adds, by hand.
CIFAR = [
    (20, 269_722, 40.55),
    (32, 464_154, 68.86),
    (44, 658_586, 97.17),
    (56, 853_018, 125.5),
    (110, 1_727_962, 252.9),
]
TORCHVISION = [
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
]


def on_meta(architecture: str, classes: int = 10) -> nn.Module:
    with torch.device("meta"):
        return build_network(architecture, classes)


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def count_multiply_adds(network: nn.Module, size: int) -> int:
    """For one image, in convolutions and the last layer: half of torch's FLOPs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return int(counter.get_total_flops()) // 2


def with_statistics(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, with batch norms that are not the identity."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.running_var):
                nn.init.uniform_(value, 0.5, 1.5)
            for value in (module.bias, module.running_mean):
                nn.init.normal_(value, std=0.2)
    return network.eval()


def projections(network: nn.Module) -> list[str]:
    """Names of the blocks whose shortcuts are 1x1 convolutions."""
    convolutions = [
        name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
    ]
    return [name.partition(".downsample")[0] for name in convolutions if ".downsample" in name]


@pytest.mark.parametrize(
    ("depth", "parameters", "millions"),
    [*CIFAR, pytest.param(1202, 19_421_274, 2829, marks=pytest.mark.slow)],
)
def test_a_small_network_has_the_papers_size(depth: int, parameters: int, millions: float) -> None:
    """Shortcuts have no parameters: plain and pre-activation networks are as large."""
    network = on_meta(f"resnet{depth}")
    assert count_parameters(network) == parameters
    assert count_multiply_adds(network, 32) == pytest.approx(millions * 1e6, rel=1e-3)
    for family in ("plain", "preresnet"):
        assert count_parameters(on_meta(f"{family}{depth}")) == parameters


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_large_network_is_torchvisions(name: str) -> None:
    """In names and number of parameters, and in cost (its documentation's GFLOPS)."""
    meta = next(iter(torchvision.models.get_model_weights(name))).meta
    network = on_meta(name, classes=1000)
    assert count_parameters(network) == meta["num_params"]
    assert count_multiply_adds(network, 224) / 1e9 == pytest.approx(meta["_ops"], abs=0.001)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name)
    network.load_state_dict(theirs.state_dict(), assign=True)


def test_a_plain_imagenet_network_is_its_twin_without_projections() -> None:
    """Its state dict is that of the residual network without shortcuts."""
    twin = {
        name: value.shape
        for name, value in on_meta("resnet34").state_dict().items()
        if "downsample" not in name
    }
    assert {name: value.shape for name, value in on_meta("plain34").state_dict().items()} == twin


SHAPES = [
    *(("resnet20", 33, (64, 9, 9)), ("resnet20-b", 32, (64, 8, 8)), ("resnet20-c", 28, (64, 7, 7))),
    *(
        ("plain20", 32, (64, 8, 8)),
        ("preresnet20", 33, (64, 9, 9)),
        ("preresnet20-b", 32, (64, 8, 8)),
    ),
    *(("resnet18", 224, (512, 7, 7)), ("plain18", 224, (512, 7, 7))),
    *(("resnet18-small", 32, (512, 4, 4)), ("resnet50-small", 32, (2048, 4, 4))),
]


@pytest.mark.parametrize(("name", "size", "shape"), SHAPES)
@torch.inference_mode()
def test_features_and_classify_are_the_network(
    name: str, size: int, shape: tuple[int, int, int]
) -> None:
    """The last feature map has the expected shape, and gives the network's own logits."""
    network = with_statistics(build_network(name, 7))
    images = torch.randn(1, 3, size, size)
    last_map = features(network, images)
    assert last_map.shape == (1, *shape)
    assert network(images).shape == (1, 7)
    torch.testing.assert_close(classify(network, last_map), network(images), rtol=1e-5, atol=1e-5)


def test_the_shortcut_takes_every_second_pixel_and_pads_with_zero_channels() -> None:
    """Option A: no parameters, old channels first."""
    x = torch.arange(2 * 4 * 4, dtype=torch.float32).reshape(1, 2, 4, 4)
    out = ZeroPaddedShortcut(4)(x)
    assert torch.equal(out[:, :2], x[:, :, ::2, ::2])
    assert not out[:, 2:].any()
    assert out.shape == (1, 4, 2, 2)


def test_the_gradient_of_the_shortcut_keeps_the_memory_format() -> None:
    """A conversion would take a tenth of each training step."""
    x = (
        torch.arange(486.0)
        .reshape(2, 3, 9, 9)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
    )
    out = ZeroPaddedShortcut(4)(x)
    assert torch.equal(out[:, :3], x[:, :, ::2, ::2])
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("family", ["resnet", "preresnet"])
def test_projections_are_where_the_option_says(family: str) -> None:
    """Option A has none, B where sizes change, C in each block."""
    assert projections(on_meta(f"{family}32")) == []
    assert projections(on_meta(f"{family}32-b")) == ["layer2.0", "layer3.0"]
    if family == "resnet":
        everywhere = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(5)]
        assert projections(on_meta("resnet32-c")) == everywhere


@torch.inference_mode()
def test_shortcuts_pass_the_image_on_if_all_blocks_are_zero() -> None:
    """A plain network blocks the signal."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    for name, passes in (
        ("plain20", False),
        ("plain18-small", False),
        ("resnet20", True),
        ("preresnet20", True),
    ):
        network = build_network(name, 10).eval()
        for parameter_name, parameter in network.named_parameters():
            if parameter_name.startswith("layer") and ".conv" in parameter_name:
                nn.init.zeros_(parameter)
        assert bool(features(network, images).any()) == passes, name


@torch.inference_mode()
def test_pre_activation_does_not_change_the_identity() -> None:
    """A block with a zero residual returns its input; the first of a stage activates it."""
    network = with_statistics(build_network("preresnet20", 10, zero_init_residual=True))
    x = torch.randn(2, 16, 8, 8)
    first, *rest = network.get_submodule("layer1").children()
    assert torch.equal(first(x), torch.relu(first.bn1(x)))
    assert len(rest) == 2
    assert all(torch.equal(block(x), x) for block in rest)


@pytest.mark.parametrize("name", ["resnet20", "resnet20-b", "resnet18-small", "resnet50"])
@torch.inference_mode()
def test_zeroed_residuals_make_blocks_the_identity(name: str) -> None:
    """All blocks but the first of a stage start as ReLU, the identity on activated inputs."""
    torch.manual_seed(0)
    network = build_network(name, 10, zero_init_residual=True).eval()
    for stage in ("layer1", "layer2", "layer3"):
        first, *rest = network.get_submodule(stage).children()
        x = torch.randn(1, (first.bn3 if hasattr(first, "bn3") else first.bn2).num_features, 4, 4)
        assert rest
        assert all(torch.equal(block(x), torch.relu(x)) for block in rest)


def test_zeroed_residuals_are_refused_without_shortcuts() -> None:
    for name in ("plain20", "plain18"):
        with pytest.raises(RecipeError, match="zero_init_residual"):
            build_network(name, 10, zero_init_residual=True)


@pytest.mark.parametrize(
    "name", ["resnet56", "plain56", "preresnet56", "resnet20-c", "resnet18-small", "plain18"]
)
def test_convolutions_start_with_he_initialisation(name: str) -> None:
    """A deviation of sqrt(2 / fan): fan-in in CIFAR networks, fan-out in torchvision's."""
    torch.manual_seed(0)
    network = build_network(name, 10)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            channels = (
                module.in_channels
                if parse_architecture(name).style == "cifar"
                else module.out_channels
            )
            expected = (2 / (channels * module.kernel_size[0] ** 2)) ** 0.5
            tolerance = 5 / (2 * module.weight.numel()) ** 0.5  # five standard errors
            assert module.weight.std().item() == pytest.approx(expected, rel=tolerance)
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
    assert not network.get_parameter("fc.bias").any()


@pytest.mark.parametrize(
    "name",
    ["resnet21", "resnet", "plain20x", "resnet-20", "resnet20-", "plain20-b", "resnet18-b", ""],
)
def test_an_unknown_architecture_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(
        RecipeError,
        match=r"resnet20, resnet32.*-b or -c.*preresnet20.*plain20.*resnext50_32x4d.*-small",
    ):
        build_network(name, 10)


def test_every_known_name_is_parsed() -> None:
    names = known_architectures()
    assert len(set(names)) == len(names)
    for name in names:
        parsed = parse_architecture(name)
        assert name.startswith(parsed.base)
        assert str(parsed.depth) in name
        assert default_image_size(name) == (
            32 if parsed.style == "cifar" or name.endswith("-small") else 224
        )
        assert (parsed.shortcut is None) == (parsed.family == "plain")
    wide = parse_architecture("wide_resnet50_2-small")
    assert (wide.family, wide.depth) == ("wide_resnet", 50)
    assert (wide.shortcut, wide.style) == ("B", "imagenet")
    assert parse_architecture("preresnet1202").shortcut == "A"


@pytest.mark.parametrize(("name", "stages"), [("resnet20", 3), ("preresnet20", 3), ("resnet18", 4)])
def test_layer_groups_go_from_stem_to_head(name: str, stages: int) -> None:
    """Each parameter is in one group, and the last group is the last layer."""
    network = on_meta(name)
    found = layer_groups(network)
    begins = [group[0][0].split(".")[0] for group in found]
    assert begins == ["conv1", *(f"layer{stage + 1}" for stage in range(stages)), "fc"]
    assert [parameter_name for parameter_name, _ in found[-1]] == ["fc.weight", "fc.bias"]
    listed = [pair for group in found for pair in group]
    assert [(n, id(p)) for n, p in listed] == [(n, id(p)) for n, p in network.named_parameters()]


@torch.inference_mode()
def test_folding_replaces_only_norms_without_a_convolution_before_them() -> None:
    """In pre-activation networks: the first norm of each block and the last norm."""
    network = with_statistics(build_network("preresnet20-b", 10)).train()
    folded = fold_batch_norms(network)
    replaced = [name for name, module in folded.named_modules() if isinstance(module, MultiplyAdd)]
    assert len(replaced) == 10
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(name.endswith("bn1") for name in replaced)
    assert network.training
    assert not any(isinstance(module, MultiplyAdd) for module in network.modules())
    images = torch.randn(4, 3, 32, 32)
    expected = network.eval()(images)
    assert (folded(images) - expected).abs().max() < 1e-5 * expected.abs().max()
    for name in ("resnet20-b", "plain20", "resnet18", "resnet50", "plain18"):
        again = fold_batch_norms(on_meta(name))
        assert not any(
            isinstance(module, MultiplyAdd | nn.BatchNorm2d) for module in again.modules()
        )


class Served(nn.Sequential):
    """Outputs of an exported model."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        last_map = features(self[0], images)
        return classify(self[0], last_map), last_map


@pytest.mark.parametrize("name", ["resnet20", "preresnet20"])
def test_a_network_exports_without_batch_norms(name: str) -> None:
    """The graph has a dynamic batch and gives torch's logits and feature map."""
    network = with_statistics(build_network(name, 10))
    network = mirror_averaged(network) if name == "resnet20" else network
    served, example = Served(fold_batch_norms(network)).eval(), torch.zeros(2, 3, 32, 32)
    program = torch.onnx.export(
        served, (example,), dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False
    )
    assert program is not None
    model = program.model_proto
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    images = torch.randn(3, 3, 32, 32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    logits, last_map = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(
            last_map, features(network, images).numpy(), rtol=1e-3, atol=1e-3
        )
        np.testing.assert_allclose(logits, network(images).numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet20", "preresnet20", "resnet18-small"])
def test_a_mirror_averaged_network_gives_the_mean_of_both_sides(name: str) -> None:
    """Its feature map gives its logits, as class activation maps need."""
    torch.manual_seed(0)
    network = build_network(name, 5).eval()
    both, x = mirror_averaged(network).eval(), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = (network(x) + network(x.flip(3))) / 2
        assert torch.allclose(both(x), expected, atol=1e-4)
        assert torch.allclose(both(x.flip(3)), both(x), atol=1e-4)
        assert torch.allclose(classify(both, features(both, x)), both(x), atol=1e-4)
        assert torch.allclose(features(both, x.flip(3)), features(both, x).flip(3), atol=1e-4)
