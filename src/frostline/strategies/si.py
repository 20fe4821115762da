"""Synaptic intelligence: a weight matters by what it did for the loss along the way."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from frostline.core.checks import in_range
from frostline.core.scope import Scope
from frostline.core.types import Task
from frostline.strategies.quadratic import PathIntegral


@dataclass
class SI(PathIntegral):
    """Add strength * sum_i Omega_i (theta_i - theta*_i)^2 to the loss (Zenke et al. 2017, arXiv 1703.04200).

    After a task Omega_i grows by omega_i / (Delta_i^2 + damping): Delta_i is how far the weight went in the task, omega_i the
    integral along its way of minus the task's own gradient, without the pull of this term, times its steps. There is no
    factor 1/2, as in the paper. clip: Omega is cut at 0 after each task, as in the authors' code, where the paper leaves it
    be; below 0 the term pushes weights away. Adds four passes over the weights to a step. Stores two numbers a weight, and
    two more while a task is learned.
    """

    name: ClassVar[str] = "si"

    strength: float = 0.1
    damping: float = 0.1
    clip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.si.damping", self.damping, 0, above=True)

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
