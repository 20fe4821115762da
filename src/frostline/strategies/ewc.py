"""Elastic weight consolidation: important weights are pulled back to where they were."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range, one_of
from frostline.core.importance import ESTIMATES, LABELS, probe, squared_gradients
from frostline.core.kronecker import curvature, parameters_of, rows
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.types import Batch, Task
from frostline.strategies.quadratic import Quadratic


@dataclass
class EWC(Quadratic):
    """Add strength/2 * sum_i F_i (theta_i - theta*_i)^2 to the loss (Kirkpatrick et al. 2017, arXiv 1612.00796).

    mode: 'separate' keeps one quadratic term a task. Their sum is again a quadratic, with the summed Fisher around the
    Fisher-weighted mean of the old weights, so two tensors a parameter hold any number of tasks exactly (up to a constant
    that no gradient sees). 'online' keeps the latest weights as the centre and lets the old Fisher fade: F <- decay * F +
    F_t (Schwarz et al. 2018, arXiv 1805.06370). labels: how the Fisher information is estimated, see
    importance.squared_gradients. samples: training samples of the task it is estimated from (all where None). Importance is
    taken over all weights, since a layer that is frozen today may thaw tomorrow; only thawed ones are penalised. Other
    people's coefficients: codes without the factor 1/2 (Avalanche, Hsu et al. 2018) write lambda for strength = 2 lambda,
    van de Ven's with it the same number; codes that square the gradient of a batch's mean have a Fisher up to B times
    smaller (labels=batched). curvature: 'diagonal', or 'kronecker', in which a linear layer that sees one vector an example
    has the Kronecker product of two matrices for its Fisher information (Ritter et al. 2018, arXiv 1805.07810), a term for
    each task; all other weights keep their diagonal. Its 'online' mode has the faded sum of G and the mean of A for the sum
    of the products. Stores two numbers a weight, or in x in + out x out numbers and the weights for each linear layer and
    task. Adds a pass over the weights to a step, or two products a layer and task.
    """

    name: ClassVar[str] = "ewc"
    keeps = (*Quadratic.keeps, "layers", "terms")
    factor: ClassVar[float] = 0.5

    strength: float = 10.0
    mode: str = "separate"
    decay: float = 1.0
    labels: str = "sampled"
    curvature: str = "diagonal"
    samples: int | None = 1000
    seed: int = 0
    layers: list[dict[str, list[Tensor]]] = field(default_factory=list, init=False)  # of each task: G, A, weights
    terms: float = field(default=0.0, init=False)  # tasks in the online factors, faded

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.ewc.decay", self.decay, 0, 1)
        in_range("strategy.ewc.samples", self.samples, 1)
        one_of("strategy.ewc.mode", self.mode, ("separate", "online"))
        one_of("strategy.ewc.labels", self.labels, LABELS if self.curvature == "kronecker" else ESTIMATES)
        one_of("strategy.ewc.curvature", self.curvature, ("diagonal", "kronecker"))

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the quadratic term, the layers' with Kronecker factors among it."""
        found, model = super().penalty(step, batch, logits), step.scope.model
        for task in self.layers if self.strength else ():
            for name, (G, A, centre) in task.items():
                if not step.scope.names.isdisjoint(parameters_of(model, name)):
                    moved = rows(model, name) - centre
                    found = found + self.factor * self.strength * ((G @ moved @ A) * moved).sum()
        return found

    def after_task(self, scope: Scope, task: Task) -> None:
        """Estimate this task's Fisher information and merge it."""
        rng = generator(self.seed, "fisher", task.index)
        batches, model = list(probe(task, self.samples, rng)), scope.model
        if self.curvature == "kronecker":
            self._add_factors(model, task, batches)
        covered = {name for layer in self.layers[-1] for name in parameters_of(model, layer)} if self.layers else set()
        rest = {name: p for name, p in model.named_parameters() if name not in covered}
        if not rest:
            return
        fisher = squared_gradients(model, task, batches, labels=self.labels, generator=rng)
        for name, p in rest.items():
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

    def _add_factors(self, model: nn.Module, task: Task, batches: list[Batch]) -> None:
        rng = generator(self.seed, "kronecker", task.index)
        new = curvature(model, task, batches, self.labels, rng)
        own = {name: [G, A, rows(model, name).detach().clone()] for name, (G, A) in new.items()}
        self.terms = self.decay * self.terms + 1
        if self.mode == "online" and self.layers:
            for name, (G, A, _) in self.layers[0].items():
                own[name][0] = own[name][0] + self.decay * G
                own[name][1] = A + (own[name][1] - A) / self.terms
        self.layers = [own] if self.mode == "online" else [*self.layers, own]
