"""What learns: a network with its optimiser and average, and one step of it."""

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
    """The weights, the optimiser's momentum and the weights' average change in `step` alone, and all of them together.

    A batch in parts, on one process or several, ends in the same weights: gradients are averaged by images, and batch norm's
    running statistics move by the mean over the parts.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        process: DistributedProcess,
        determinism: DeterminismInfo,
    ) -> None:
        self.network = network.to(process.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.network, recipe.optimizer)
        self.average = (
            ExponentialMovingAverage(self.network, recipe.ema_decay) if recipe.ema_decay else None
        )
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
        """The network that is validated and published: the average where there is one."""
        return self.network if self.average is None else self.average.network

    def train(self, *, frozen: bool = False) -> None:
        """Go into training mode; `frozen` lets the head alone learn."""
        self.network.train()
        freeze(self.network, frozen=frozen)
        if (
            frozen != self._frozen
        ):  # what exchanges gradients, and what is compiled, depends on which of them there are
            self._frozen = frozen
            self._parallel = (
                DistributedDataParallel(self.network, broadcast_buffers=False)
                if self._process.is_distributed
                else None
            )
            model = self._parallel or self.network
            self._model = torch.compile(model) if self._determinism.compiled else model

    def step(self, batch: Batch) -> Tensor:
        """One update at the optimiser's present rate. Returns this process's sum of losses and images got right."""
        self.optimizer.zero_grad(set_to_none=True)
        tally = torch.zeros(2, dtype=torch.float64, device=self._process.device)
        for index, part in enumerate(batch.micro_batches):
            self._spread_momentum(index, len(batch.micro_batches))
            with self._arithmetic(), self._synchronised(last=index == len(batch.micro_batches) - 1):
                logits = self._model(part.images).float()
                losses = functional.cross_entropy(
                    logits,
                    part.targets,
                    label_smoothing=self._recipe.label_smoothing,
                    reduction="sum",
                )
                (losses * (self._process.world_size / batch.size)).backward()  # type: ignore[no-untyped-call]
            tally += torch.stack([losses.detach(), (logits.argmax(1) == part.labels).sum()])
        if self._recipe.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._recipe.optimizer.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network)
        return tally

    def synchronise(self) -> None:
        """Give every process the same running statistics; all of them call this together."""
        self._process.average_batch_norms(self.network)
        if self.average is not None:
            self._process.average_batch_norms(self.average.network)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on, running statistics averaged over the processes."""
        self.synchronise()
        average = None if self.average is None else self.average.state_dict()
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": average,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises KeyError, ValueError or RuntimeError where it is another network's."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(
            self._process.device.type, torch.bfloat16, enabled=self._determinism.precision == "bf16"
        )

    def _synchronised(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients are exchanged once a batch."""
        return (
            contextlib.nullcontext() if last or self._parallel is None else self._parallel.no_sync()
        )

    def _spread_momentum(self, index: int, parts: int) -> None:
        """Let the running statistics end at (1 - m) r + m (s1 + … + sk) / k, whatever the order of the k parts.

        The part with `after` parts behind it must then weigh m / (k - after m).
        """
        if parts == 1:
            return
        after = parts - 1 - index
        for module, momentum in self._momenta.items():
            if momentum is not None:
                module.momentum = momentum / (parts - after * momentum)
