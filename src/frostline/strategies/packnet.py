"""PackNet: several tasks in one net, each in weights of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError, in_range
from frostline.core.scope import Scope, holding, stop_statistics
from frostline.core.step import Step
from frostline.core.structure import everything, head
from frostline.core.tensors import smallest
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies.base import Grads, Strategy, needs_task_labels


@dataclass
class PackNet(Strategy):
    """Train the free weights, prune a share of them, retrain the rest, which then belong to the task (Mallya & Lazebnik 2018).

    arXiv 1711.05769. prune: share of a layer's free weights, the smallest, that is given back after training.
    retrain_epochs: passes over the data afterwards. A task is decided with the weights that were there when it was learned,
    so this needs task-incremental streams, and nothing is forgotten at all. Biases and norms train with the first task only,
    running statistics stand still after it; a layer that is frozen while a task is learned belongs to it as it is. The head's
    rows belong to their classes. Stores a byte a weight; while a task is learned, a copy of what must not move.
    """

    keeps = ("owner", "pinned", "learned", "retraining")

    prune: float = 0.75
    retrain_epochs: int = 1

    def __post_init__(self) -> None:
        in_range("strategy.packnet.prune", self.prune, 0, 0.99, above=True)
        in_range("strategy.packnet.retrain_epochs", self.retrain_epochs, 0)
        self.owner: dict[str, Tensor] = {}  # of each scalar: 0 nobody yet, t + 1 task t
        self.pinned: dict[str, Tensor] = {}
        self.learned = 0
        self.retraining = False

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_task_labels("packnet", "weights", stream)
        if len(stream) > 255:
            raise UsageError(f"strategy=packnet: {len(stream)} tasks; expected at most 255.")
        for name in _pruned(model):
            left = model.get_parameter(name).numel() * self.prune ** (len(stream) - 1) * (1 - self.prune)
            if left < 1:
                raise UsageError(
                    f"strategy.packnet.prune={self.prune}: {name} has no weight left for task {len(stream) - 1}. "
                    "Expected a larger net, fewer tasks, or another share."
                )

    def parts(self, task: Task) -> Sequence[Task]:
        """Return training, then retraining of what pruning leaves."""
        return [task, replace(task, epochs=self.retrain_epochs)]

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Let running statistics stand still after the first task."""
        if self.learned or self.retraining:
            stop_statistics(model)
        yield

    def thawing(self, scope: Scope, task: Task) -> None:
        """Keep what must not move."""
        for name, p in scope.parameters.items():
            self.owner.setdefault(name, torch.zeros_like(p, dtype=torch.uint8))
            self.pinned.setdefault(name, p.detach().clone())

    def project(self, step: Step, batch: Batch, grads: Grads) -> Grads:
        """Return no gradient for what belongs to older tasks, or was pruned."""
        return {name: g * self._free(name) for name, g in grads.items()}

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Put back what momentum or weight decay moved all the same."""
        for name, p in step.scope.parameters.items():
            p.data = torch.where(self._free(name), p.data, self.pinned[name])

    def _free(self, name: str) -> Tensor:
        return self.owner[name] == (self.learned + 1 if self.retraining else 0)

    def after_part(self, scope: Scope, part: Task, number: int) -> None:
        """Prune after training: what is kept belongs to the task from here on."""
        if self.retraining:
            return
        self.retraining, own = True, self.learned + 1
        outside, pruned = head(scope.model), _pruned(scope.model)
        for name, p in scope.model.named_parameters():
            owner = self.owner.setdefault(name, torch.zeros_like(p, dtype=torch.uint8))
            free = owner == 0
            if name in outside and part.visible is not None:
                rows = part.visible[part.index] if part.visible.ndim > 1 else part.visible
                free = free & rows.view(-1, *(1,) * (p.ndim - 1))
            elif name in pruned and name in scope.names:
                p.data.masked_fill_(drop := smallest(p.detach(), free, self.prune), 0.0)
                free = free & ~drop
            self.owner[name] = torch.where(free, own, owner).to(torch.uint8)
        self.pinned = {name: scope.model.get_parameter(name).detach().clone() for name in self.pinned}

    def after_task(self, scope: Scope, task: Task) -> None:
        """Note that the task is learned."""
        self.learned, self.retraining, self.pinned = self.learned + 1, False, {}

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Let a learned task see the weights of its own time."""
        if task is None or task.index >= self.learned or not self.owner:
            yield
            return
        own = {name: self.owner[name] <= task.index + 1 for name in _pruned(model) if name in self.owner}
        with holding(model, {name: model.get_parameter(name).detach() * kept for name, kept in own.items()}):
            yield


def _pruned(model: nn.Module) -> list[str]:
    """Return the names of the parameters that are pruned: matrices and filters outside the head."""
    outside = head(model)
    return [n for n, p in model.named_parameters() if p.ndim > 1 and n not in outside and n in everything(model)]
