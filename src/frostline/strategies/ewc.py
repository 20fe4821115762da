"""Elastic weight consolidation: important weights are pulled back to where they were."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from frostline.core.checks import in_range, one_of
from frostline.core.importance import LABELS, probe, squared_gradients
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.types import Task
from frostline.strategies.quadratic import Quadratic


@dataclass
class EWC(Quadratic):
    """Add strength/2 * sum_i F_i (theta_i - theta*_i)^2 to the loss (Kirkpatrick et al. 2017, arXiv 1612.00796).

    mode: 'separate' keeps one quadratic term a task. Their sum is again a quadratic, with the summed Fisher around the
    Fisher-weighted mean of the old weights, so two tensors a parameter hold any number of tasks exactly (up to a constant
    that no gradient sees). 'online' keeps the latest weights as the centre and lets the old Fisher fade: F <- decay * F + F_t
    (Schwarz et al. 2018, arXiv 1805.06370). labels: how the Fisher information is estimated, see
    importance.squared_gradients. samples: training samples of the task it is estimated from (all where None). Importance is
    taken over all weights, since a layer that is frozen today may thaw tomorrow; only thawed ones are penalised. Other
    people's coefficients: codes without the factor 1/2 (Avalanche, Hsu et al. 2018) write lambda for strength = 2 lambda, van
    de Ven's with it the same number; codes that square the gradient of a batch's mean have a Fisher up to B times smaller.
    Stores two numbers a weight. Adds a pass over the weights to a step.
    """

    name: ClassVar[str] = "ewc"
    factor: ClassVar[float] = 0.5

    strength: float = 10.0
    mode: str = "separate"
    decay: float = 1.0
    labels: str = "sampled"
    samples: int | None = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.ewc.decay", self.decay, 0, 1)
        in_range("strategy.ewc.samples", self.samples, 1)
        one_of("strategy.ewc.mode", self.mode, ("separate", "online"))
        one_of("strategy.ewc.labels", self.labels, LABELS)

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
