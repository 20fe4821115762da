"""Function distance regularisation: stay near the function that was learned, where it can be looked at."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from frostline.core.buffers import Buffer
from frostline.core.checks import in_range, one_of
from frostline.core.rng import generator
from frostline.core.scope import Scope, evaluating
from frostline.core.step import Step
from frostline.core.types import Batch, Task
from frostline.strategies.base import Strategy


@dataclass
class FDR(Strategy):
    """Add strength * |p(x) - p_old(x)| for the probabilities that the net gave when their task ended (Benjamin et al. 2018).

    arXiv 1805.08289. The distance is the mean over samples from memory of the euclidean one. Stores samples and
    probabilities. Adds a forward and a backward pass over `batch_size` samples, as many as came in where None, to a step.
    """

    keeps = ("memory",)

    strength: float = 1.0
    capacity: int = 500
    batch_size: int | None = None
    buffer: str = "reservoir"
    seed: int = 0

    def __post_init__(self) -> None:
        in_range("strategy.fdr.strength", self.strength, 0)
        in_range("strategy.fdr.capacity", self.capacity, 1)
        in_range("strategy.fdr.batch_size", self.batch_size, 1)
        one_of("strategy.fdr.buffer", self.buffer, Buffer.RULES)
        self.memory = Buffer(self.capacity, self.buffer, self.seed)

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the distance from what the net said."""
        if not len(self.memory) or not self.strength:
            return logits.new_zeros(())
        drawn = self.memory.draw(self.batch_size or len(step.incoming))
        now = step.forward(drawn, masked=False).softmax(-1)
        away = (now - drawn.columns["said"]).flatten(1).square().sum(1)
        return self.strength * (away + 1e-12).sqrt().mean()  # a root has no gradient at 0

    def after_task(self, scope: Scope, task: Task) -> None:
        """Offer the task's samples with what the net says of them now."""
        order = torch.randperm(len(task.train), generator=generator(self.seed, "fdr", task.index))
        with torch.no_grad(), evaluating(scope.model):
            for batch in task.train.batches(256, order):
                self.memory.add(batch.having(said=scope.model(batch.x).float().softmax(-1)))

    def work(self, size: int) -> Hashable:
        """Return how many samples are looked at beside a batch of `size`."""
        return min(len(self.memory), self.batch_size or size)

    def remembered(self) -> Iterable[Batch]:
        """Return what is in memory."""
        return [self.memory.all()] if len(self.memory) else []

    def recalls(self) -> bool:
        """Return whether it holds on to earlier tasks and does nothing else: it does."""
        return True
