"""Baselines that never build on what was learned before: every task from the weights that the run began with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from frostline.core.scope import Scope, holding, tensors_of
from frostline.core.types import Task, TaskStream
from frostline.strategies.base import Strategy, needs_task_labels


@dataclass
class FromScratch(Strategy):
    """Give what trains in a task the values back that it had before any training.

    With strategy=[from_scratch,cumulative] this is retraining from scratch on all data whenever a task arrives. What a
    selector freezes stays as it is. Stores the initial values of what has trained.
    """

    keeps = ("initial", "fresh")

    initial: dict[str, Tensor] = field(default_factory=dict, init=False)
    fresh: list[str] = field(default_factory=list, init=False)  # what was set back in this task

    def thawing(self, scope: Scope, task: Task) -> None:
        """Set back what thaws for the first time in the task."""
        self.initial = scope.snapshot(self.initial)
        model = scope.model
        with torch.no_grad():
            for name, value in tensors_of(model, scope.snapshot()).items():
                if name not in self.fresh:
                    value.copy_(self.initial[name])
                    self.fresh.append(name)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Note that the next task begins anew."""
        self.fresh = []


@dataclass
class Independent(FromScratch):
    """Train a model of its own for each task, and decide each task with its own: what no interference at all would give.

    Nothing is forgotten and nothing carries over. Needs task-incremental streams. Stores what trained, once a task.
    """

    keeps = ("initial", "fresh", "models")

    models: list[dict[str, Tensor]] = field(default_factory=list, init=False)

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_task_labels("independent", "model", stream)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Keep all that has ever trained, as it is now."""
        super().after_task(scope, task)
        self.models.append({name: t.detach().clone() for name, t in tensors_of(scope.model, self.initial).items()})

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Let a learned task see its own model; what trained for later ones only was still as in the beginning."""
        if task is None or task.index >= len(self.models):
            yield
            return
        with holding(model, {**self.initial, **self.models[task.index]}):
            yield
