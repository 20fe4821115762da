"""Step: one training step as a method sees it."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from frostline.core.scope import Scope
from frostline.core.types import Batch, Task, masked

Weights = Mapping[str, Tensor]


class Network(Protocol):
    """What computes a step's logits: the model, or what of it runs after a cache of the frozen prefix."""

    def logits(self, batch: Batch, weights: Weights | None = None) -> Tensor:
        """Return raw logits, with other tensors in the place of those that `weights` names."""
        ...

    def teach(self, batch: Batch, weights: Weights) -> Tensor:
        """Return them in eval mode and without gradient."""
        ...

    def state(self, name: str) -> dict[str, Any]:
        """Return the optimizer's state of a parameter; its tensors may be written to."""
        ...

    def learning_rate(self) -> float:
        """Return the optimizer's rate at this step, of its first parameters."""
        ...


class Step:
    """One training step: what is learned from, what the model said, and what a method may ask of it.

    scope: what trains. task: what is learned. number: of `steps` in the task (in this part of it). incoming: the batch
    as it came, before any method added to it. raw: the logits [B, ...] of the batch before invisible classes are masked, once
    there are some. rate: what the learning rate is multiplied by at this step.
    """

    def __init__(self, scope: Scope, task: Task, steps: int, network: Network):
        self.scope, self.task, self.steps, self.network = scope, task, steps, network
        self.number = 0
        self.rate = 1.0
        self.incoming: Batch
        self.raw: Tensor

    def forward(self, batch: Batch, weights: Weights | None = None, *, masked: bool = True) -> Tensor:
        """Return the logits of a batch, differentiable; with other `weights` by name: virtual steps, perturbed weights."""
        raw = self.network.logits(batch, weights)
        return self.mask(batch, raw) if masked else raw

    def teacher(self, batch: Batch, weights: Weights) -> Tensor:
        """Return the raw logits under old tensors, in eval mode and without gradient.

        weights: what Scope.snapshot took; what has stood still since then the model still has itself.
        """
        with torch.no_grad():
            return self.network.teach(batch, weights)

    @property
    def learning_rate(self) -> float:
        """The optimizer's rate at this step, the schedule in it; 0 where none is there, in a probe."""
        return self.network.learning_rate()

    def mask(self, batch: Batch, raw: Tensor) -> Tensor:
        """Return logits with invisible classes at -inf."""
        return masked(raw, self.task.mask(batch))

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the objective's mean loss."""
        return self.task.objective.loss(logits, y)

    def state(self, name: str) -> dict[str, Any]:
        """Return the optimizer's state of a parameter, empty before the first update; its tensors may be written to."""
        return self.network.state(name)
