"""What pulls weights back to where they were, each by how much it mattered: EWC, SI, MAS, RWalk and L2-SP have it in common."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from frostline.core.checks import in_range
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.tensors import add_products, differences
from frostline.core.types import Batch, Task
from frostline.strategies.base import Grads, Strategy


@dataclass
class Quadratic(Strategy):
    """Add factor * strength * sum_i importance_i (theta_i - centre_i)^2 to the loss, over the weights that train.

    A subclass says in after_task what mattered and where to. factor: 1/2 or 1, as its paper has it.
    """

    keeps = ("importance", "centre")
    name: ClassVar[str]
    factor: ClassVar[float] = 1.0

    strength: float = 1.0
    importance: dict[str, Tensor] = field(default_factory=dict, init=False)
    centre: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        in_range(f"strategy.{self.name}.strength", self.strength, 0)

    def recalls(self) -> bool:
        """Return whether it holds on to earlier tasks and does nothing else: it does."""
        return True

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the quadratic term over the thawed weights that were there when a task ended."""
        if not self.importance or not self.strength:
            return logits.new_zeros(())
        old = {name: p for name, p in step.scope.parameters.items() if name in self.importance}
        weights = list(old.values())
        importance, centre = ([of[name] for name in old] for of in (self.importance, self.centre))
        return self.factor * self.strength * _Quadratic.apply(importance, centre, *weights)

    def pull(self, name: str, weight: Tensor) -> Tensor | None:
        """Return the term's gradient at a weight, None where nothing pulls at it."""
        if name not in self.importance or not self.strength:
            return None
        return 2 * self.factor * self.strength * self.importance[name] * (weight - self.centre[name])

    def reads_samples(self) -> bool:
        """Say no: the penalty is about weights."""
        return False


@dataclass
class PathIntegral(Quadratic):
    """Add up what each weight's way through a task did for the loss: minus the gradient times the steps, as SI and RWalk do.

    The gradient is that of the task's own loss, without the pull of the term itself.
    """

    keeps = (*Quadratic.keeps, "path", "start")

    path: dict[str, Tensor] = field(default_factory=dict, init=False)
    start: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.before: list[Tensor] = []  # the weights that the step is taken from, and its gradients
        self.grads: Grads = {}

    def thawing(self, scope: Scope, task: Task) -> None:
        """Note where the weights set out."""
        for name, p in scope.parameters.items():
            if name not in self.start:
                self.start[name], self.path[name] = p.detach().clone(), torch.zeros_like(p)

    def project(self, step: Step, batch: Batch, grads: Grads) -> Grads:
        """Note the gradients and the weights that the step is taken from."""
        self.before = [step.scope.parameters[name].detach().clone() for name in grads]
        pulls = [self.pull(name, weight) for name, weight in zip(grads, self.before, strict=True)]
        self.grads = {n: g if pull is None else g - pull for (n, g), pull in zip(grads.items(), pulls, strict=True)}
        return grads

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Add the step's part."""
        steps = differences([step.scope.parameters[n].detach() for n in self.grads], self.before)
        add_products([self.path[n] for n in self.grads], list(self.grads.values()), steps, -1.0)


class _Quadratic(torch.autograd.Function):
    """sum_i F_i (theta_i - theta*_i)^2 over lists of tensors, its gradient kept from the forward pass.

    Autograd's own way reads and writes every weight some ten times, which on a small net is half of a training step.
    """

    @staticmethod
    def forward(ctx: Any, importance: list[Tensor], centre: list[Tensor], *weights: Tensor) -> Tensor:
        moved = [p - c for p, c in zip(weights, centre, strict=True)]
        pull = [f * m for f, m in zip(importance, moved, strict=True)]
        ctx.save_for_backward(*pull)
        return torch.stack([torch.dot(m.flatten(), p.flatten()) for m, p in zip(moved, pull, strict=True)]).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        twice = 2 * grad
        return (None, None, *(twice * pull for pull in ctx.saved_tensors))
