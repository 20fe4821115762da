"""Averaged GEM: one constraint instead of one a task."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import torch

from frostline.core.buffers import Buffer
from frostline.core.checks import in_range, one_of
from frostline.core.projection import away_from, flat, unflat
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.types import Batch, Task
from frostline.strategies.base import Grads, Strategy
from frostline.strategies.gem import gradient_on


@dataclass
class AGEM(Strategy):
    """Take out of the gradient what points against that of samples from memory (Chaudhry et al. 2019, arXiv 1812.00420).

    Adds a forward and a backward pass over `batch_size` samples, as many as came in where None, and two passes over
    the gradient. buffer: reservoir, class_balanced or ring; the paper's keeps equally many of each task. Stores samples.
    """

    keeps = ("memory",)

    capacity: int = 500
    batch_size: int | None = None
    buffer: str = "class_balanced"
    seed: int = 0

    def __post_init__(self) -> None:
        in_range("strategy.agem.capacity", self.capacity, 1)
        in_range("strategy.agem.batch_size", self.batch_size, 1)
        one_of("strategy.agem.buffer", self.buffer, Buffer.RULES)
        self.memory = Buffer(self.capacity, self.buffer, self.seed)

    def project(self, step: Step, batch: Batch, grads: Grads) -> Grads:
        """Return the gradient without what would raise the loss in memory."""
        if not len(self.memory):
            return grads
        like = {name: step.scope.parameters[name] for name in grads}
        old = gradient_on(step, self.memory.draw(self.batch_size or len(step.incoming)), like)
        return unflat(away_from(flat(grads, like), old), like)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Offer the task's samples to the memory."""
        order = torch.randperm(len(task.train), generator=generator(self.seed, "agem", task.index))
        for batch in task.train.batches(1024, order):
            self.memory.add(batch)

    def work(self, size: int) -> Hashable:
        """Return how many samples are looked at beside a batch of `size`."""
        return min(len(self.memory), self.batch_size or size)

    def remembered(self) -> Iterable[Batch]:
        """Return what is in memory."""
        return [self.memory.all()] if len(self.memory) else []

    def recalls(self) -> bool:
        """Return whether it holds on to earlier tasks and does nothing else: it does."""
        return True
