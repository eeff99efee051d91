"""A network with its optimizer and weight average, and one training step."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from training.learning.batches import Batch
from training.learning.determinism import DeterminismInfo
from training.learning.distributed import DistributedProcess
from training.learning.ema import ExponentialMovingAverage
from training.learning.optimization import build_optimizer, freeze
from training.learning.recipe import Recipe


class Learner:
    """Everything that a training step changes: weights, momentum and weight average.

    The same micro-batches give the same weights up to rounding, on one process or several.
    Gradients are averaged over images, and batch norm's running statistics move by the mean over
    the micro-batches.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        process: DistributedProcess,
        determinism: DeterminismInfo,
    ) -> None:
        network = network.to(process.device)
        self.network = network.to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.network, recipe.optimizer)
        self.average: ExponentialMovingAverage | None = None
        if recipe.ema_decay:
            self.average = ExponentialMovingAverage(self.network, recipe.ema_decay)
        self._recipe, self._process, self._determinism = recipe, process, determinism
        self._momenta = {
            module: module.momentum
            for module in self.network.modules()
            if isinstance(module, nn.BatchNorm2d)
        }
        self._frozen: bool | None = None
        self._parallel: DistributedDataParallel | None = None
        self._model: Callable[[Tensor], Tensor] = self.network

    @property
    def evaluation_network(self) -> nn.Module:
        """The network that is validated and published: the weight average, if there is one."""
        return self.network if self.average is None else self.average.network

    def train(self, *, frozen: bool = False) -> None:
        """Set training mode. With `frozen`, only the last layer learns."""
        self.network.train()
        freeze(self.network, frozen=frozen)
        if frozen == self._frozen:
            return
        # DistributedDataParallel and torch.compile depend on which parameters require gradients.
        self._frozen = frozen
        if self._process.is_distributed:
            self._parallel = DistributedDataParallel(self.network, broadcast_buffers=False)
        model = self._parallel or self.network
        self._model = torch.compile(model) if self._determinism.compiled else model

    def step(self, batch: Batch) -> Tensor:
        """Update the weights at the optimizer's current learning rate.

        Returns:
            float64 `[2]`: this process's sum of losses, and number of correctly classified images.
        """
        self.optimizer.zero_grad(set_to_none=True)
        tally = torch.zeros(2, dtype=torch.float64, device=self._process.device)
        count = len(batch.micro_batches)
        for index, micro_batch in enumerate(batch.micro_batches):
            self._set_norm_momentum(index, count)
            with self._autocast(), self._gradient_sync(is_last=index == count - 1):
                logits = self._model(micro_batch.images).float()
                losses = functional.cross_entropy(
                    logits,
                    micro_batch.targets,
                    label_smoothing=self._recipe.label_smoothing,
                    reduction="sum",
                )
                # DistributedDataParallel averages gradients over processes; we want the sum.
                loss = losses * (self._process.world_size / batch.size)
                loss.backward()  # type: ignore[no-untyped-call]
            correct = (logits.argmax(1) == micro_batch.labels).sum()
            tally += torch.stack([losses.detach(), correct])
        if self._recipe.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._recipe.optimizer.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network)
        return tally

    def synchronize(self) -> None:
        """Average running statistics over the processes. All processes must call this together."""
        self._process.average_batch_norms(self.network)
        if self.average is not None:
            self._process.average_batch_norms(self.average.network)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint, synchronized over the processes."""
        self.synchronize()
        average = None if self.average is None else self.average.state_dict()
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": average,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            KeyError, ValueError, RuntimeError: The state belongs to another network.
        """
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(
            self._process.device.type, torch.bfloat16, enabled=self._determinism.precision == "bf16"
        )

    def _gradient_sync(self, *, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Exchange gradients once per batch, with the last micro-batch."""
        if is_last or self._parallel is None:
            return contextlib.nullcontext()
        return self._parallel.no_sync()

    def _set_norm_momentum(self, index: int, count: int) -> None:
        """Give all micro-batches of a batch the same weight in the running statistics.

        A micro-batch that is followed by `after` others gets the momentum `m / (k - after m)`. The
        statistics then change from `r` to `(1 - m) r + m (s_1 + ... + s_k) / k`.
        """
        after = count - 1 - index
        for module, momentum in self._momenta.items():
            if momentum is not None:
                module.momentum = momentum / (count - after * momentum)
