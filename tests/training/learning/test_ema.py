"""The moving average of weights: exact, batch norm's statistics included, resumable."""

import pytest
import torch
from torch import nn

from training.learning.ema import ExponentialMovingAverage


def network() -> nn.Sequential:
    """A convolution and a norm."""
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def test_the_first_update_copies_and_later_ones_average() -> None:
    """With the decay rising as (1 + n) / (10 + n) to its height."""
    net = network()
    average = ExponentialMovingAverage(net, decay=0.9)
    expected = None
    for step, value in enumerate((1.0, 2.0, 5.0)):
        nn.init.constant_(net[0].weight, value)
        average.update(net)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.network.get_parameter("0.weight").flatten().tolist() == pytest.approx(
            [expected] * 2
        )


def test_running_statistics_are_averaged_and_counts_are_copied() -> None:
    """An average of counts would be no count (5 became 1 in torch's own)."""
    net = network()
    average = ExponentialMovingAverage(net, decay=0.5)
    for count in range(1, 6):
        net.train()
        net(torch.randn(8, 1, 4, 4) * count)
        average.update(net)
    assert average.network.get_buffer("1.num_batches_tracked").item() == 5
    assert not torch.equal(
        average.network.get_buffer("1.running_var"), net.get_buffer("1.running_var")
    )
    assert average.network.get_buffer("1.running_var").min() > 0


def test_an_average_goes_on_from_its_state() -> None:
    """To the bit."""
    net = network()
    whole, cut = ExponentialMovingAverage(net, 0.9), ExponentialMovingAverage(net, 0.9)
    for step in range(6):
        nn.init.constant_(net[0].weight, float(step))
        whole.update(net)
        cut.update(net)
        if step == 2:
            state, cut = cut.state_dict(), ExponentialMovingAverage(network(), 0.9)
            cut.load_state_dict(state)
    assert all(
        torch.equal(value, cut.state_dict()[name]) for name, value in whole.state_dict().items()
    )
