"""LUCIR: logits are cosines, features keep their direction, and exemplars keep their distance from new classes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import in_range
from frostline.core.features import Overheard
from frostline.core.heads import Normalised, linear
from frostline.core.scope import Scope, with_head
from frostline.core.step import Step
from frostline.core.tensors import flags
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies.base import needs_features
from frostline.strategies.memory import Exemplars


@dataclass
class LUCIR(Exemplars):
    """Decide by the angle to each class's row, and hold features and exemplars where they were (Hou et al. 2019).

    CVPR 2019. Cross-entropy over scale * cosine; less_forget * sqrt(old / new classes) * (1 - cosine of the old net's feature
    and the new one's); and for exemplars of old classes a margin to the `hardest` new classes whose cosines are highest. The
    paper learns the scale; here it is given, so that any net's head will do. Its rows for new classes are imprinted in the
    authors' code, not here. Exemplars are chosen by herding and learned together with the task's samples. It owns a task's
    parts, the loss and the answer. Stores samples; while a task is learned, a copy of what trains. Adds an evaluation-mode
    forward pass to a step.
    """

    name: ClassVar[str] = "lucir"
    keeps = ("memory", "teacher", "known")

    less_forget: float = 5.0
    scale: float = 16.0
    margin: float = 0.5
    ranking: float = 1.0
    hardest: int = 2
    teacher: dict[str, Tensor] = field(default_factory=dict, init=False)
    known: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("less_forget", "margin", "ranking"):
            in_range(f"strategy.lucir.{name}", getattr(self, name), 0)
        in_range("strategy.lucir.scale", self.scale, 0, above=True)
        in_range("strategy.lucir.hardest", self.hardest, 1)
        self.overheard = Overheard()
        self.old = self.new = torch.zeros(0, dtype=torch.bool)  # classes, of which `fresh` are new
        self.fresh = 0

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_features("lucir", model, stream)
        super().check(model, stream)

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Listen to the features."""
        with self.overheard.at(model):
            yield

    def thawing(self, scope: Scope, task: Task) -> None:
        """Copy what is about to move, the first time in a task that it does."""
        if self.known:
            self.teacher = scope.snapshot(self.teacher)
        rows = scope.model.get_parameter("head.weight")
        self.old, self.new = flags(self.known, rows), flags(set(task.classes) - set(self.known), rows)
        self.fresh = len(set(task.classes) - set(self.known))

    def criterion(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the three terms."""
        z, rows = F.normalize(self.overheard.learned), F.normalize(step.scope.model.get_parameter("head.weight"))
        cosines = z @ rows.T
        loss = step.loss(step.mask(batch, self.scale * cosines), batch.y)
        if not self.teacher or not self.fresh:
            return loss
        step.teacher(batch, self.teacher)
        apart = 1 - (z * F.normalize(self.overheard.latest)).sum(1).mean()
        loss = loss + self.less_forget * math.sqrt(len(self.known) / self.fresh) * apart
        return loss + self.ranking * self._ranked(cosines, batch.y)

    def _ranked(self, cosines: Tensor, y: Tensor) -> Tensor:
        """Return how much exemplars lack of the margin to the nearest new classes, on average."""
        among = cosines.masked_fill(~self.new, -torch.inf)
        nearest = among.topk(min(self.hardest, self.fresh), dim=1).values
        lacks = F.relu(self.margin - cosines.gather(1, y[:, None]) + nearest)
        old = self.old[y][:, None].to(lacks)
        return (lacks * old).sum() / (old.sum() * lacks.shape[1]).clamp(min=1)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Choose exemplars."""
        super().after_task(scope, task)
        self.teacher, self.known = {}, sorted({*self.known, *task.classes})

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Let the angles decide."""
        rows = F.normalize(model.get_parameter("head.weight").detach())
        with with_head(model, Normalised(linear(self.scale * rows))):
            yield
