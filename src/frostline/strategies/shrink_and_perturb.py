"""Shrink and perturb: a net that begins nearer to a random one stays able to learn."""

from dataclasses import dataclass, field

import torch

from frostline.core.checks import in_range, one_of
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.types import Batch, Task
from frostline.strategies.base import Grads, Strategy


@dataclass
class ShrinkAndPerturb(Strategy):
    """Set theta <- shrink * theta + noise * N(0, 1) before a task (Ash & Adams 2020, arXiv 1910.08475), or after each step.

    every 'task': when what trains thaws, from the second task on; the paper's numbers, 0.4 and 0.1 on its scale of weights.
    every 'step' is the form of Dohare et al. 2024, with a shrink close to 1 and noise close to 0. Stores nothing.
    """

    keeps = ("drawn", "done")

    shrink: float = 0.4
    noise: float = 0.01
    every: str = "task"
    seed: int = 0
    drawn: int = field(default=0, init=False)
    done: list[str] = field(default_factory=list, init=False)  # in this task

    def __post_init__(self) -> None:
        in_range("strategy.shrink_and_perturb.shrink", self.shrink, 0, 1)
        in_range("strategy.shrink_and_perturb.noise", self.noise, 0)
        one_of("strategy.shrink_and_perturb.every", self.every, ("task", "step"))

    def thawing(self, scope: Scope, task: Task) -> None:
        """Shrink and perturb what thaws for the first time in the task."""
        fresh = [name for name in scope.parameters if name not in self.done]
        self.done += fresh
        if fresh and self.every == "task" and task.index:
            self._perturb(scope, fresh)

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Do so after each step."""
        if self.every == "step":
            self._perturb(step.scope, list(step.scope.parameters))

    def _perturb(self, scope: Scope, names: list[str]) -> None:
        rng = generator(self.seed, "shrink and perturb", self.drawn)
        self.drawn += 1
        with torch.no_grad():
            for name in names:
                p = scope.parameters[name]
                p.mul_(self.shrink).add_(torch.randn(p.shape, generator=rng).to(p), alpha=self.noise)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Note that the task is over."""
        self.done = []
