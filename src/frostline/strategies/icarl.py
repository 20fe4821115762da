"""iCaRL: a memory chosen by herding, answers distilled, and the nearest mean of exemplars decides."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import one_of
from frostline.core.features import class_sums, needs_linear_head
from frostline.core.scope import Scope, with_head
from frostline.core.sources import MemorySource
from frostline.core.step import Step
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies.base import needs_classes
from frostline.strategies.closed_form import one_hot
from frostline.strategies.memory import Exemplars
from frostline.strategies.ncm import nearest_mean


@dataclass
class ICaRL(Exemplars):
    """Learn with a sigmoid a class, old classes' targets from the old net, and decide by the nearest mean.

    Rebuffi et al. 2017, arXiv 1611.07725. Exemplars are chosen by herding and learned together with the task's samples. Each
    class's mean is that of its exemplars' features of length 1. reduction: 'sum' adds a sample's cross-entropies up over the
    classes seen so far, as in the paper; 'mean' takes their mean, as the authors' code does (with a learning rate of 2), which
    also counts classes that are still to come. The authors' code averages mirrored images into the means; here the samples as
    they are. Stores samples and a mean a class; while a task is learned, a copy of what trains. Adds an evaluation-mode forward
    pass to a step.
    """

    name: ClassVar[str] = "icarl"
    keeps = ("memory", "means", "teacher", "known")

    reduction: str = "sum"
    teacher: dict[str, Tensor] = field(default_factory=dict, init=False)
    known: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("strategy.icarl.reduction", self.reduction, ("sum", "mean"))
        self.means = torch.zeros(0, 0)

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_classes("icarl", stream)
        needs_linear_head("icarl", model)
        super().check(model, stream)

    def thawing(self, scope: Scope, task: Task) -> None:
        """Copy what is about to move, the first time in a task that it does."""
        if self.known:
            self.teacher = scope.snapshot(self.teacher)

    def criterion(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the binary cross-entropy with labels for new classes and the old net's answers for old ones."""
        target = one_hot(batch.y, logits.shape[1], step.raw)
        old = [label for label in self.known if label not in step.task.classes]
        if self.teacher and old:
            target[:, old] = step.teacher(batch, self.teacher)[:, old].sigmoid()
        seen = logits.isfinite()
        each = F.binary_cross_entropy_with_logits(step.raw, target, reduction="none") * seen
        return each.sum(1).mean() if self.reduction == "sum" else each.sum() / seen.sum()

    def after_task(self, scope: Scope, task: Task) -> None:
        """Choose exemplars, and work out where each class's are on average."""
        super().after_task(scope, task)
        model, self.teacher = scope.model, {}
        self.known = sorted({*self.known, *task.classes})
        self.means = class_sums(model, MemorySource(self.memory.all()))

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Let the nearest mean decide, once there are means."""
        if not len(self.means):
            yield
            return
        with with_head(model, nearest_mean(self.means, "icarl")):
            yield
