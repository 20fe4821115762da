"""IL2M: old classes get their scores of old times back."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from frostline.core.heads import Rectified, copied
from frostline.core.scope import Scope, evaluating, with_head
from frostline.core.sources import MemorySource
from frostline.core.tensors import flags
from frostline.core.types import Source, Task, TaskStream
from frostline.strategies.base import needs_features
from frostline.strategies.closed_form import one_hot
from frostline.strategies.memory import Exemplars


@dataclass
class IL2M(Exemplars):
    """Rectify old classes' probabilities where a new class wins, by what they were when learned (Belouadah & Popescu 2019).

    ICCV 2019. A class's probability is multiplied by its mean at the time it was learned, over its mean now, and by the net's
    mean confidence now, over that of then. Means are over the class's own samples, its exemplars once it is old; a net's
    confidence is the mean of its highest probability on a task's new samples. Exemplars are learned together with the task's
    samples. It owns a task's parts and the answer. Stores samples and three numbers a class.
    """

    name: ClassVar[str] = "il2m"
    keeps = ("memory", "then", "now", "confidence", "new", "known")

    new: list[int] = field(default_factory=list, init=False)
    known: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.then, self.now, self.confidence = torch.zeros(0), torch.zeros(0), torch.zeros(0)  # [C] each

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_features("il2m", model, stream)
        super().check(model, stream)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Note how sure the net is of each class."""
        super().after_task(scope, task)
        assert self.arrived is not None
        fresh, sure = _scores(scope.model, task, self.arrived.train)
        self.now, _ = _scores(scope.model, task, MemorySource(self.memory.all()))
        if not len(self.then):
            self.then, self.confidence = torch.zeros_like(fresh), torch.zeros_like(fresh)
        self.new = sorted(set(task.classes) - set(self.known))
        self.known = sorted({*self.known, *task.classes})
        self.then, self.confidence = self.then.clone(), self.confidence.clone()
        self.then[self.new], self.confidence[self.new] = fresh[self.new], sure

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Let the rectified probabilities decide, where there are old classes and new ones."""
        if not self.new or len(self.new) == len(self.known):
            yield
            return
        new, known = flags(self.new, self.then), flags(self.known, self.then)
        if task is not None and task.visible is not None and task.visible.ndim > 1:
            known &= task.visible[task.index]
        if not known.any():  # a task that is still to come
            yield
            return
        ratio = self.then / self.now * self.confidence[self.new[0]] / self.confidence
        held = ~new & (self.then > 0) & (self.now > 0)  # of a class without exemplars nothing is known
        rise = torch.where(held, ratio, 1.0).log()
        with with_head(model, Rectified(copied(model), rise, new, known)):
            yield


def _scores(model: nn.Module, task: Task, source: Source) -> tuple[Tensor, Tensor]:
    """Return each class's mean probability on its own samples [C], 0 without any, and the mean of the highest ones."""
    counts = torch.zeros(0)
    sums, highest = counts, counts
    with torch.no_grad(), evaluating(model):
        for batch in source.batches(256):
            p = task.logits(model, batch).softmax(1)
            hot = one_hot(batch.y, p.shape[1], p)
            if not len(counts):
                sums, counts, highest = torch.zeros_like(p[0]), torch.zeros_like(p[0]), p.new_zeros(())
            sums, counts, highest = sums + (p * hot).sum(0), counts + hot.sum(0), highest + p.amax(1).sum()
    return sums / counts.clamp(min=1), highest / len(source)
