"""Riemannian walk: Fisher information and the path to where the weights are, together."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from frostline.core.checks import in_range
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.tensors import lerp_each
from frostline.core.types import Batch, Task
from frostline.strategies.base import Grads
from frostline.strategies.quadratic import PathIntegral


@dataclass
class RWalk(PathIntegral):
    """Add strength * sum_i (F_i + s_i) (theta_i - theta*_i)^2 to the loss (Chaudhry et al. 2018, arXiv 1801.10112).

    F is a running mean of squared gradients of batches, F <- decay * F^ + (1 - decay) * F at each step, which is EWC++. s is
    how much the loss fell on a weight's way, over how far its way was in the metric of F: every `every` steps -gradient *
    step / (F * step^2 / 2 + eps) is added where the loss fell. Both are divided by their largest value when a task ends, and
    s is the mean of the old and the new one. decay: the paper's alpha, 0.9. Adds five passes over the weights to a step.
    Stores two numbers a weight, and four more while a task is learned.
    """

    name: ClassVar[str] = "rwalk"
    keeps = (*PathIntegral.keeps, "fisher", "score", "old_score", "taken")

    strength: float = 0.1
    decay: float = 0.9
    every: int = 10
    eps: float = 1e-3
    fisher: dict[str, Tensor] = field(default_factory=dict, init=False)
    score: dict[str, Tensor] = field(default_factory=dict, init=False)  # of this task
    old_score: dict[str, Tensor] = field(default_factory=dict, init=False)
    taken: int = field(default=0, init=False)  # steps

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.rwalk.decay", self.decay, 0, 1)
        in_range("strategy.rwalk.every", self.every, 1)
        in_range("strategy.rwalk.eps", self.eps, 0, above=True)

    def thawing(self, scope: Scope, task: Task) -> None:
        """Note where the weights set out."""
        super().thawing(scope, task)
        for name, p in scope.parameters.items():
            for store in (self.fisher, self.score):
                store.setdefault(name, torch.zeros_like(p))

    def project(self, step: Step, batch: Batch, grads: Grads) -> Grads:
        """Note the gradients, bring the Fisher information up to date."""
        super().project(step, batch, grads)
        lerp_each([self.fisher[n] for n in self.grads], [g.square() for g in self.grads.values()], self.decay)
        return grads

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Add the step's part of the path, and now and then what it was worth."""
        super().after_step(step, batch, grads)
        self.taken += 1
        if self.taken % self.every == 0:
            self._score(step.scope)

    def _score(self, scope: Scope) -> None:
        for name, p in scope.parameters.items():
            moved = (p.detach() - self.start[name]).square()
            self.score[name] += (self.path[name] / (0.5 * self.fisher[name] * moved + self.eps)).clamp(min=0)
            self.path[name], self.start[name] = torch.zeros_like(p), p.detach().clone()

    def after_task(self, scope: Scope, task: Task) -> None:
        """Turn both into importance, each at most 1."""
        for name, score in self.score.items():
            old = self.old_score.get(name)
            self.old_score[name] = score if old is None else (old + score) / 2
        largest = [max([float(t.max()) for t in found.values()] + [1e-30]) for found in (self.fisher, self.old_score)]
        for name, score in self.old_score.items():
            self.importance[name] = self.fisher[name] / largest[0] + score / largest[1]
            self.centre[name] = scope.model.get_parameter(name).detach().clone()
        self.path, self.start, self.score = {}, {}, {}
