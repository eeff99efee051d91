"""One training step, against the same step written out by hand."""

import contextlib
import copy
import json
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from training.learning import learner as learner_module
from training.learning.batches import Batch, MicroBatch
from training.learning.determinism import determinism_info
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.learning.learner import Learner
from training.learning.networks import build_network
from training.learning.recipe import Recipe

CLASSES = 5
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(12, 3, 8, 8, generator=GENERATOR)
LABELS = torch.arange(12) % CLASSES


def make_learner(
    network: nn.Module | None = None,
    precision: str = "fp32",
    process: DistributedProcess = SINGLE_PROCESS,
    **changes: object,
) -> Learner:
    """Plain SGD unless changed."""
    optimizer = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    optimizer |= changes.pop("optimizer", {})  # type: ignore[call-overload]
    values = {"epochs": 1, "batch_size": 12, "optimizer": optimizer, **changes}
    recipe = Recipe.model_validate_json(json.dumps(values))
    if network is None:
        torch.manual_seed(0)
        network = build_network("resnet20", CLASSES)
    determinism = determinism_info(SINGLE_PROCESS.device, precision, compiled=False)
    return Learner(network, recipe, process, determinism)


def batch_of(*sizes: int, targets: Tensor = LABELS) -> Batch:
    """The images, in micro-batches of these sizes."""
    micro_batches = zip(
        IMAGES.split(list(sizes)),
        targets.split(list(sizes)),
        LABELS.split(list(sizes)),
        strict=True,
    )
    return Batch(len(IMAGES), tuple(MicroBatch(*parts) for parts in micro_batches))


def linear() -> nn.Module:
    """A network without batch norm: one layer under the name of the last."""
    torch.manual_seed(0)
    network = nn.Sequential()
    network.add_module("avgpool", nn.Flatten())
    network.add_module("fc", nn.Linear(3 * 8 * 8, CLASSES))
    return network


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_smoothed_cross_entropy(smoothing: float) -> None:
    """Weights move along its mean gradient; the tally is its sum and the number of hits."""
    learner = make_learner(linear(), label_smoothing=smoothing)
    weight = learner.network.get_parameter("fc.weight")
    before = weight.detach().clone()
    logits = learner.network(IMAGES).detach()
    one_hot = torch.eye(CLASSES)[LABELS]
    targets = one_hot * (1 - smoothing) + smoothing / CLASSES
    learner.train()
    tally = learner.step(batch_of(12))
    assert tally[0].item() == pytest.approx(
        -(targets * logits.log_softmax(1)).sum().item(), rel=1e-5
    )
    assert tally[1].item() == (logits.argmax(1) == LABELS).sum().item()
    gradient = (logits.softmax(1) - targets).T @ IMAGES.flatten(1) / 12
    assert torch.allclose(weight, before - 0.1 * gradient, atol=1e-6)


def test_hits_are_counted_by_label_and_not_by_mixed_target() -> None:
    """A mixed image counts for the label that it had."""
    learner = make_learner(linear())
    logits = learner.network(IMAGES).detach()
    learner.train()
    mixed = torch.eye(CLASSES)[(LABELS + 1) % CLASSES]
    tally = learner.step(batch_of(12, targets=mixed))
    assert tally[1].item() == (logits.argmax(1) == LABELS).sum().item()
    assert tally[0].item() == pytest.approx(-(mixed * logits.log_softmax(1)).sum().item(), rel=1e-5)


@pytest.mark.parametrize("sizes", [(6, 6), (2, 10), (4, 4, 4)])
def test_micro_batches_weigh_by_their_images(sizes: tuple[int, ...]) -> None:
    """Without batch norm, any division of a batch gives the weights of the whole."""
    whole, divided = make_learner(linear()), make_learner(linear())
    for learner, batch in ((whole, batch_of(12)), (divided, batch_of(*sizes))):
        learner.train()
        learner.step(batch)
    for name, value in whole.network.state_dict().items():
        assert torch.allclose(value, divided.network.state_dict()[name], atol=1e-6), name


def test_running_statistics_are_the_mean_over_the_micro_batches() -> None:
    """In whatever order the micro-batches come, and over several steps."""
    learner = make_learner()
    norm = learner.network.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mean((0, 2, 3))))
    learner.train()
    learner.step(batch_of(4, 4, 4))
    learner.step(batch_of(6, 6))
    learner.step(batch_of(12))
    expected = torch.zeros(16)
    for step in (slice(0, 3), slice(3, 5), slice(5, 6)):
        expected = 0.9 * expected + 0.1 * torch.stack(seen[step]).mean(0)
    assert torch.allclose(norm.get_buffer("running_mean"), expected.detach(), atol=1e-6)


def test_the_gradient_is_clipped_to_its_largest_norm() -> None:
    learner = make_learner(linear(), optimizer={"clip_norm": 0.01})
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    learner.train()
    learner.step(batch_of(12))
    changes = [value - before[name] for name, value in learner.network.state_dict().items()]
    norm = torch.cat([change.flatten() for change in changes]).norm().item()
    assert norm == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_the_average_follows_the_weights_and_is_evaluated() -> None:
    """The average is exact in test_ema; here it is updated once per step."""
    learner = make_learner(linear(), ema_decay=0.5)
    assert learner.average is not None
    assert learner.evaluation_network is learner.average.network
    learner.train()
    weights = []
    for _ in range(2):
        learner.step(batch_of(12))
        weights.append(learner.network.get_parameter("fc.weight").detach().clone())
    average = learner.evaluation_network.get_parameter("fc.weight")
    assert torch.allclose(average, 2 / 11 * weights[0] + 9 / 11 * weights[1], atol=1e-7)
    plain = make_learner(linear())
    assert plain.evaluation_network is plain.network


def test_gradients_of_earlier_steps_are_cleared() -> None:
    """The second step moves the weights along its own gradient."""
    learner = make_learner(linear())
    weight = learner.network.get_parameter("fc.weight")
    learner.train()
    learner.step(batch_of(12))
    before, logits = weight.detach().clone(), learner.network(IMAGES).detach()
    learner.step(batch_of(12))
    gradient = (logits.softmax(1) - torch.eye(CLASSES)[LABELS]).T @ IMAGES.flatten(1) / 12
    assert torch.allclose(weight, before - 0.1 * gradient, atol=1e-6)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_learner_continues_from_its_state_bit_for_bit(ema_decay: float) -> None:
    """Weights, momentum and the weight average."""
    settings = {"ema_decay": ema_decay, "optimizer": {"momentum": 0.9}}
    whole = make_learner(**settings)
    whole.train()
    whole.step(batch_of(12))
    resumed = make_learner(build_network("resnet20", CLASSES), **settings)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    resumed.train()
    for learner in (whole, resumed):
        learner.step(batch_of(12))
    for network in ("network", "evaluation_network"):
        expected = getattr(whole, network).state_dict()
        for name, value in getattr(resumed, network).state_dict().items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_network_computes_in_the_chosen_precision(precision: str, dtype: torch.dtype) -> None:
    """The loss is computed in float32."""
    learner = make_learner(linear(), precision)
    outputs: list[torch.dtype] = []
    learner.network.register_forward_hook(lambda *values: outputs.append(values[-1].dtype))
    logits = learner.network(IMAGES).detach()
    learner.train()
    tally = learner.step(batch_of(12))
    assert outputs[-1] == dtype
    expected = nn.functional.cross_entropy(logits, LABELS, reduction="sum").item()
    assert tally[0].item() == pytest.approx(expected, rel=1e-5 if precision == "fp32" else 0.02)


def test_only_the_last_layer_learns_while_frozen() -> None:
    """Also in a second epoch; afterwards all layers learn."""
    learner = make_learner()
    first, last = (learner.network.get_parameter(f"{name}.weight") for name in ("conv1", "fc"))
    moved = []
    for frozen in (True, True, False):
        before = first.detach().clone(), last.detach().clone()
        learner.train(frozen=frozen)
        assert learner.network.training
        learner.step(batch_of(12))
        moved.append([not torch.equal(a, b) for a, b in zip(before, (first, last), strict=True)])
    assert moved == [[False, True], [False, True], [True, True]]


class RecordingParallel(nn.Module):
    """Stands for DistributedDataParallel in one process, and records its passes."""

    def __init__(self, network: nn.Module, *, broadcast_buffers: bool) -> None:
        super().__init__()
        assert not broadcast_buffers
        self.network = network
        self.exchanges = True
        self.passes: list[bool] = []
        """For each forward pass, whether its gradients are exchanged."""

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        self.exchanges = False
        yield
        self.exchanges = True

    def forward(self, images: Tensor) -> Tensor:
        self.passes.append(self.exchanges)
        return self.network(images)


def test_processes_exchange_gradients_with_the_last_micro_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And weigh them by the number of processes, because torch averages them."""
    monkeypatch.setattr(learner_module, "DistributedDataParallel", RecordingParallel)
    learner = make_learner(linear(), process=DistributedProcess(world_size=2))
    alone = make_learner(linear())
    before = learner.network.get_parameter("fc.weight").detach().clone()
    for each in (learner, alone):
        each.train()
        each.step(batch_of(4, 4, 4))
    parallel = learner._model
    assert isinstance(parallel, RecordingParallel)
    assert parallel.passes == [False, False, True]
    steps = [each.network.get_parameter("fc.weight") - before for each in (learner, alone)]
    assert torch.allclose(steps[0], 2 * steps[1], atol=1e-7)


def test_the_network_is_wrapped_anew_when_other_layers_learn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DistributedDataParallel expects gradients of the parameters that needed them at first."""
    monkeypatch.setattr(learner_module, "DistributedDataParallel", RecordingParallel)
    learner = make_learner(linear(), process=DistributedProcess(world_size=2))
    models = []
    for frozen in (True, True, False):
        learner.train(frozen=frozen)
        models.append(learner._model)
    assert models[0] is models[1]
    assert models[1] is not models[2]
