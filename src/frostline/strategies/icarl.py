"""iCaRL: a memory chosen by herding, answers distilled, and the nearest mean of exemplars decides."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import one_of
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.tensors import flags
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies.base import needs_features
from frostline.strategies.closed_form import one_hot
from frostline.strategies.memory import Exemplars, NearestExemplar


@dataclass
class ICaRL(NearestExemplar, Exemplars):
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
        self.means, self.old = torch.zeros(0, 0), torch.zeros(0, dtype=torch.bool)

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_features("icarl", model, stream)
        super().check(model, stream)

    def thawing(self, scope: Scope, task: Task) -> None:
        """Copy what is about to move, the first time in a task that it does."""
        if self.known:
            self.teacher = scope.snapshot(self.teacher)
        self.old = flags(set(self.known) - set(task.classes), scope.model.get_parameter("head.weight"))

    def criterion(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the binary cross-entropy with labels for new classes and the old net's answers for old ones."""
        target = one_hot(batch.y, logits.shape[1], step.raw)
        if self.teacher:
            target = torch.where(self.old, step.teacher(batch, self.teacher).sigmoid(), target)
        seen = logits.isfinite()
        each = F.binary_cross_entropy_with_logits(step.raw, target, reduction="none") * seen
        return each.sum(1).mean() if self.reduction == "sum" else each.sum() / seen.sum()

    def after_task(self, scope: Scope, task: Task) -> None:
        """Choose exemplars, and work out where each class's are on average."""
        super().after_task(scope, task)
        self.teacher = {}
        self.known = sorted({*self.known, *task.classes})
        self.take_means(scope.model)
