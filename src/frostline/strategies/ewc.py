"""Elastic weight consolidation: important weights are pulled back to where they were."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from frostline.core.checks import in_range, one_of
from frostline.core.importance import LABELS, probe, squared_gradients
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.types import Batch, Task
from frostline.strategies.base import Strategy


@dataclass
class EWC(Strategy):
    """Add strength/2 * sum_i F_i (theta_i - theta*_i)^2 to the loss (Kirkpatrick et al. 2017, arXiv 1612.00796).

    mode: 'separate' keeps one quadratic term a task. Their sum is again a quadratic, with the summed Fisher around the
    Fisher-weighted mean of the old weights, so two tensors a parameter hold any number of tasks exactly (up to a
    constant that no gradient sees). 'online' keeps the latest weights as the centre and lets the old Fisher fade:
    F <- decay * F + F_t (Schwarz et al. 2018, arXiv 1805.06370).
    labels: how the Fisher information is estimated, see importance.squared_gradients. samples: training samples of the
    task it is estimated from (all where None). Importance is taken over all weights, since a layer that is frozen today
    may thaw tomorrow; only thawed ones are penalised.
    """

    keeps = ("importance", "centre")

    strength: float = 10.0
    mode: str = "separate"
    decay: float = 1.0
    labels: str = "sampled"
    samples: int | None = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        in_range("strategy.ewc.strength", self.strength, 0)
        in_range("strategy.ewc.decay", self.decay, 0, 1)
        in_range("strategy.ewc.samples", self.samples, 1)
        one_of("strategy.ewc.mode", self.mode, ("separate", "online"))
        one_of("strategy.ewc.labels", self.labels, LABELS)
        self.importance: dict[str, Tensor] = {}
        self.centre: dict[str, Tensor] = {}

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
        return self.strength / 2 * _Quadratic.apply(importance, centre, *weights)

    def reads_samples(self) -> bool:
        """Say no: the penalty is about weights."""
        return False

    def after_task(self, scope: Scope, task: Task) -> None:
        """Estimate this task's Fisher information and merge it."""
        rng = generator(self.seed, "fisher", task.index)
        batches = probe(task, self.samples, rng)
        fisher = squared_gradients(scope.model, task, batches, labels=self.labels, generator=rng)
        for name, p in scope.model.named_parameters():
            new, now = fisher[name], p.detach().clone()
            if name not in self.importance:
                self.importance[name], self.centre[name] = new, now
            elif self.mode == "online":
                self.importance[name], self.centre[name] = self.decay * self.importance[name] + new, now
            else:
                total = self.importance[name] + new
                share = torch.where(total > 0, new / total, torch.zeros_like(total))
                self.importance[name] = total
                self.centre[name] = torch.lerp(self.centre[name], now, share)


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
