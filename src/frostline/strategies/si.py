"""Synaptic intelligence: a weight matters by what it did for the loss along the way."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from frostline.core.checks import in_range
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.tensors import add_products, differences
from frostline.core.types import Batch, Task
from frostline.strategies.base import Grads
from frostline.strategies.quadratic import Quadratic


@dataclass
class SI(Quadratic):
    """Add strength * sum_i Omega_i (theta_i - theta*_i)^2 to the loss (Zenke et al. 2017, arXiv 1703.04200).

    After a task Omega_i grows by omega_i / (Delta_i^2 + damping): Delta_i is how far the weight went in the task, omega_i the
    integral along its way of minus the task's own gradient, without the pull of this term, times its steps. There is no
    factor 1/2, as in the paper. clip: Omega is cut at 0 after each task, as in the authors' code, where the paper leaves it
    be; below 0 the term pushes weights away. Adds four passes over the weights to a step. Stores two numbers a weight, and
    two more while a task is learned.
    """

    keeps = ("importance", "centre", "path", "start")
    name: ClassVar[str] = "si"

    strength: float = 0.1
    damping: float = 0.1
    clip: bool = True
    path: dict[str, Tensor] = field(default_factory=dict, init=False)
    start: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.si.damping", self.damping, 0, above=True)
        self._before: list[Tensor] = []  # of the step that is about to be taken, and its gradients
        self._grads: Grads = {}

    def thawing(self, scope: Scope, task: Task) -> None:
        """Note where the weights set out."""
        for name, p in scope.parameters.items():
            if name not in self.start:
                self.start[name], self.path[name] = p.detach().clone(), torch.zeros_like(p)

    def project(self, step: Step, batch: Batch, grads: Grads) -> Grads:
        """Note the gradients and the weights that the step is taken from."""
        weights = [step.scope.parameters[name].detach() for name in grads]
        self._before = [w.clone() for w in weights]
        pulled = {name: self.pull(name, w) for name, w in zip(grads, weights, strict=True)}
        self._grads = {n: g if (pull := pulled[n]) is None else g - pull for n, g in grads.items()}
        return grads

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Add the step's part of the path integral."""
        steps = differences([step.scope.parameters[n].detach() for n in self._grads], self._before)
        add_products([self.path[n] for n in self._grads], list(self._grads.values()), steps, -1.0)
        self._before, self._grads = [], {}

    def after_task(self, scope: Scope, task: Task) -> None:
        """Turn the paths into importance."""
        for name, start in self.start.items():
            now = scope.model.get_parameter(name).detach()
            grown = self.path[name] / ((now - start).square() + self.damping)
            self.importance[name] = self.importance.get(name, torch.zeros_like(now)) + grown
            if self.clip:
                self.importance[name] = self.importance[name].clamp(min=0)
            self.centre[name] = now.clone()
        self.path, self.start = {}, {}
