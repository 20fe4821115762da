"""HAT: each task learns which units it needs, and later tasks leave those alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range
from frostline.core.gates import allowed, claimed, drawn, moved
from frostline.core.scope import Scope, holding
from frostline.core.step import Step
from frostline.core.structure import hidden_units
from frostline.core.types import Batch, Task, TaskStream
from frostline.core.units import at_activations, needs_perceptron
from frostline.strategies.base import Grads, Strategy, needs_classes, needs_task_labels


@dataclass
class HAT(Strategy):
    """Multiply every hidden unit by a gate of the task's own, and keep what earlier tasks' gates need (Serra et al. 2018).

    arXiv 1801.01423. A gate is sigmoid(s e); e is learned beside the weights, by SGD at the rate `rate`, with s rising from
    1/s_max to s_max in each epoch and the gradient compensated for it. sparsity: the weight of the share of units that are
    not yet anybody's and that the task takes. A weight may move as far as the less needed of the two units that it joins
    lets it; the move is scaled, not its gradient, so that momentum and weight decay change nothing. Needs a
    task-incremental stream and a perceptron. Stores a number a unit for each task.
    """

    name: ClassVar[str] = "hat"
    steady = False
    keeps = ("embeddings", "gates", "taken", "size")

    s_max: float = 400.0
    sparsity: float = 0.75
    rate: float = 0.05
    seed: int = 0
    embeddings: dict[str, Tensor] = field(default_factory=dict, init=False)  # of the task that is learned
    gates: list[dict[str, Tensor]] = field(default_factory=list, init=False)  # of each task learned
    taken: dict[str, Tensor] = field(default_factory=dict, init=False)  # the highest of a unit's gates
    size: int = field(default=1, init=False)  # of the largest batch

    def __post_init__(self) -> None:
        in_range("strategy.hat.s_max", self.s_max, 1)
        in_range("strategy.hat.sparsity", self.sparsity, 0)
        in_range("strategy.hat.rate", self.rate, 0, above=True)
        self._leaves: dict[str, Tensor] = {}  # the embeddings as this step's forward pass sees them
        self._s = 1.0
        self._before: dict[str, Tensor] = {}
        self._shares: dict[str, Tensor] = {}  # of each weight's move that it may keep

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_classes("hat", stream)
        needs_task_labels("hat", "units", stream)
        needs_perceptron("hat", model)

    def before_task(self, scope: Scope, task: Task) -> None:
        """Draw an embedding of the task's own for each layer."""
        if not self.embeddings:
            self.embeddings = drawn(scope.model, self.seed, task.index)

    def thawing(self, scope: Scope, task: Task) -> None:
        """Work out how far each weight may move in this task."""
        model, needed = scope.model, self.taken
        self._shares = {n: allowed(model, n, p.detach(), needed, task.classes) for n, p in scope.parameters.items()}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Gate the units of every forward pass."""
        with at_activations(model, lambda layer, h: h * torch.sigmoid(self._s * self._leaves[layer])):
            yield

    def augment(self, step: Step, batch: Batch) -> Batch:
        """Return the batch as it is, the gates as sharp as they are at this step of an epoch."""
        self.size = max(self.size, len(batch))  # an epoch's last batch is smaller
        steps = -(-len(step.task.train) // self.size)
        place = step.number % steps / max(1, steps - 1)
        self._s = 1 / self.s_max + (self.s_max - 1 / self.s_max) * place
        self._leaves = {layer: e.detach().requires_grad_(True) for layer, e in self.embeddings.items()}
        return batch

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the share that the task takes of the units that were free."""
        for e in self._leaves.values():
            e.grad = None  # of a pass before this one
        gates = {layer: torch.sigmoid(self._s * e) for layer, e in self._leaves.items()}
        return self.sparsity * claimed(gates, self.taken)

    def project(self, step: Step, batch: Batch, grads: Grads) -> Grads:
        """Note the weights that the step is taken from."""
        self._before = {name: p.detach().clone() for name, p in step.scope.parameters.items()}
        return grads

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Let each weight keep the share of its move that is allowed, and move the embeddings."""
        for name, p in step.scope.parameters.items():
            p.data = torch.lerp(self._before[name], p.data, self._shares[name])
        self.embeddings = moved(self._leaves, self._s, self.s_max, self.rate)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Keep the gates, as sharp as they can be."""
        own = {layer: torch.sigmoid(self.s_max * e) for layer, e in self.embeddings.items()}
        self.gates = [*self.gates, own]
        self.taken = {n: torch.maximum(self.taken.get(n, torch.zeros_like(g)), g) for n, g in own.items()}
        self.embeddings = {}

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Let a learned task see its own units: a gate on what a unit puts out is one on the weights that it goes out by."""
        gates = self.gates[task.index] if task is not None and task.index < len(self.gates) else {}
        outgoing = {f"{unit.following}.weight": gates[unit.layer] for unit in hidden_units(model) if gates}
        with holding(model, {name: model.get_parameter(name).detach() * gate for name, gate in outgoing.items()}):
            yield

    def remembered(self) -> None:
        """Say that nothing can be cached: gates stand within the frozen part too."""
