"""The moving average of weights and batch norm statistics."""

import pytest
import torch
from torch import nn

from training.learning.ema import ExponentialMovingAverage


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


@pytest.mark.parametrize(("decay", "third_decay"), [(0.2, 0.2), (0.9, 3 / 12)])
def test_the_first_update_copies_and_later_ones_average(decay: float, third_decay: float) -> None:
    """The decay of update n is (1 + n) / (10 + n), at most the configured one."""
    net = network()
    average = ExponentialMovingAverage(net, decay)
    weights = []
    for value in (1.0, 2.0, 5.0):
        nn.init.constant_(net[0].weight, value)
        average.update(net)
        weights.append(average.network.get_parameter("0.weight").flatten().tolist())
    second = 2 / 11 * 1 + 9 / 11 * 2
    third = third_decay * second + (1 - third_decay) * 5
    assert weights == [pytest.approx([value] * 2) for value in (1.0, second, third)]


def test_running_statistics_are_averaged_and_counts_are_copied() -> None:
    """torch's AveragedModel would average `num_batches_tracked` too (1 instead of 5)."""
    net = network()
    average = ExponentialMovingAverage(net, decay=0.5)
    generator = torch.Generator().manual_seed(0)
    for count in range(1, 6):
        net.train()
        net(torch.randn(8, 1, 4, 4, generator=generator) * count)
        average.update(net)
    assert average.network.get_buffer("1.num_batches_tracked").item() == 5
    variance = average.network.get_buffer("1.running_var")
    assert not torch.equal(variance, net.get_buffer("1.running_var"))
    assert variance.min() > 0


def test_an_average_continues_from_its_state_bit_for_bit() -> None:
    net = network()
    whole, resumed = ExponentialMovingAverage(net, 0.9), ExponentialMovingAverage(net, 0.9)
    for step in range(6):
        nn.init.constant_(net[0].weight, float(step))
        whole.update(net)
        resumed.update(net)
        if step == 2:
            state = resumed.state_dict()
            resumed = ExponentialMovingAverage(network(), 0.9)
            resumed.load_state_dict(state)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
