"""The exponential moving average of a network's weights and batch norm statistics."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class ExponentialMovingAverage:
    """`w' = d w' + (1 - d) w` after each step; the first update copies the weights.

    torch's `AveragedModel` does the averaging. This class adds two things. The decay of update n
    is at most `(1 + n) / (10 + n)`, so that random initial weights do not dominate a short run.
    Integer buffers such as `num_batches_tracked` are copied, not averaged (pytorch#84053,
    timm#245).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._averaged = AveragedModel(network, multi_avg_fn=_ema_fn(decay), use_buffers=True)

    @property
    def network(self) -> nn.Module:
        return self._averaged.module

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        updates = int(self._averaged.n_averaged)
        self._averaged.multi_avg_fn = _ema_fn(min(self._decay, (1 + updates) / (10 + updates)))
        self._averaged.update_parameters(network)
        for averaged, latest in zip(self.network.buffers(), network.buffers(), strict=True):
            if not averaged.is_floating_point():
                averaged.copy_(latest)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self._averaged.load_state_dict(state)


def _ema_fn(decay: float) -> Callable[..., None]:
    function: Callable[..., None] = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return function
