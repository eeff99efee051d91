"""The moving average of the weights, with batch norm's statistics averaged alike."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class ExponentialMovingAverage:
    """w' = d w' + (1 - d) w after each step, over parameters and running statistics; the first update copies.

    Statistics that were copied from the last step do not fit averaged weights, and an average of `num_batches_tracked` counts
    nothing (pytorch#84053, timm#245): floats are averaged, counts are copied. The decay rises to its height as (1 + n) / (10 + n),
    so that a short run is not held at its random start.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._averaged = AveragedModel(network, multi_avg_fn=_rule(decay), use_buffers=True)

    @property
    def network(self) -> nn.Module:
        """The averaged network."""
        return self._averaged.module

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        updates = int(self._averaged.n_averaged)
        self._averaged.multi_avg_fn = _rule(min(self._decay, (1 + updates) / (10 + updates)))
        self._averaged.update_parameters(network)
        for averaged, latest in zip(self.network.buffers(), network.buffers(), strict=True):
            if not averaged.is_floating_point():
                averaged.copy_(latest)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What `load_state_dict` needs to go on."""
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a state."""
        self._averaged.load_state_dict(state)


def _rule(decay: float) -> Callable[..., None]:
    rule: Callable[..., None] = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return rule
