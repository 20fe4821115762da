"""Gradient episodic memory: no step may raise the loss on what is remembered."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from frostline.core.checks import in_range
from frostline.core.importance import probe
from frostline.core.projection import flat, into_cone, unflat
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.types import Batch, Task, batch_of
from frostline.strategies.base import Grads, Strategy


@dataclass
class GEM(Strategy):
    """Step along the gradient nearest to the task's own that raises no old task's loss (Lopez-Paz & Ranzato 2017).

    arXiv 1706.08840. `per_task` samples of each task are remembered. Stores samples. Adds a forward and a backward pass over
    every old task's samples to a step, and a quadratic program with a variable a task where one of them would suffer. margin:
    the paper's gamma, which favours old tasks further. Here it is a random choice of the task's samples that is remembered;
    the authors take its last ones.
    """

    keeps = ("memory",)

    per_task: int = 256
    margin: float = 0.5
    seed: int = 0
    memory: dict[int, dict[str, Tensor]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        in_range("strategy.gem.per_task", self.per_task, 1)
        in_range("strategy.gem.margin", self.margin, 0)

    def project(self, step: Step, batch: Batch, grads: Grads) -> Grads:
        """Return the nearest gradient that no memory objects to."""
        if not self.memory:
            return grads
        like = {name: step.scope.parameters[name] for name in grads}
        old = torch.stack([gradient_on(step, batch_of(columns), like) for columns in self.memory.values()])
        return unflat(into_cone(flat(grads, like), old, self.margin), like)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Remember some of the task's samples."""
        for batch in probe(task, self.per_task, generator(self.seed, "gem", task.index), self.per_task):
            self.memory[task.index] = {name: t.clone() for name, t in batch.tensors().items()}

    def work(self, size: int) -> Hashable:
        """Return how many old tasks there are."""
        return len(self.memory)

    def remembered(self) -> Iterable[Batch]:
        """Return what is in memory."""
        return [batch_of(columns) for columns in self.memory.values()]

    def recalls(self) -> bool:
        """Return whether it holds on to earlier tasks and does nothing else: it does."""
        return True


def gradient_on(step: Step, batch: Batch, like: dict[str, Any]) -> Tensor:
    """Return the gradient of the loss on a batch, as one vector in the order of `like`."""
    with torch.enable_grad():
        loss = step.loss(step.forward(batch), batch.y)
    found = torch.autograd.grad(loss, list(like.values()), allow_unused=True)
    return flat(dict(zip(like, found, strict=True)), like)
