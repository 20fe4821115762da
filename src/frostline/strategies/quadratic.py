"""What pulls weights back to where they were, each by how much it mattered: EWC, SI, MAS, RWalk and L2-SP have it in common."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from frostline.core.checks import in_range
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.tensors import add_products, differences, products
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
        self.pulls: dict[str, Tensor] = {}  # importance (theta - centre) of the latest term

    def recalls(self) -> bool:
        """Return whether it holds on to earlier tasks and does nothing else: it does."""
        return True

    def additive(self) -> bool:
        return True

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the quadratic term over the thawed weights that were there when a task ended."""
        self.pulls = {}
        if not self.importance or not self.strength:
            return logits.new_zeros(())
        old = {name: p for name, p in step.scope.parameters.items() if name in self.importance}
        if not old:
            return logits.new_zeros(())
        weights = list(old.values())
        moved = differences([p.detach() for p in weights], [self.centre[name] for name in old])
        pulls = products([self.importance[name] for name in old], moved)
        self.pulls = dict(zip(old, pulls, strict=True))
        return self.factor * self.strength * _Quadratic.apply(moved, pulls, *weights)

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
        self.grads = dict(grads)
        if old := [name for name in grads if name in self.pulls]:
            scale = 2 * self.factor * self.strength
            own = differences([grads[name] for name in old], [self.pulls[name] for name in old], scale)
            self.grads.update(zip(old, own, strict=True))
        return grads

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Add the step's part."""
        steps = differences([step.scope.parameters[n].detach() for n in self.grads], self.before)
        add_products([self.path[n] for n in self.grads], list(self.grads.values()), steps, -1.0)


class _Quadratic(torch.autograd.Function):
    """sum_i F_i (theta_i - theta*_i)^2 over lists of tensors: theta - theta*, and F times that, which is its gradient's half.

    Autograd's own way reads and writes every weight some ten times, which on a small net is half of a training step.
    """

    @staticmethod
    def forward(ctx: Any, moved: list[Tensor], pulls: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*pulls)
        return torch.stack([torch.dot(m.flatten(), p.flatten()) for m, p in zip(moved, pulls, strict=True)]).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        twice = 2 * grad
        return (None, None, *(twice * pull for pull in ctx.saved_tensors))
