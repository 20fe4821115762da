"""BiC: two numbers correct how loud the newest classes speak."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import in_range
from frostline.core.heads import copied
from frostline.core.joining import Part
from frostline.core.rng import generator
from frostline.core.scope import Scope, evaluating, with_head
from frostline.core.sources import MemorySource
from frostline.core.tensors import flags
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies.base import needs_features
from frostline.strategies.memory import Remembering


@dataclass
class BiC(Remembering):
    """Answer with scale * logit + shift for a task's new classes, fitted on samples held out of all tasks (Wu et al. 2019).

    arXiv 1905.13260. `held_out` of a task's samples teach nothing but the two numbers; a balanced memory keeps `capacity` of
    them. The paper has it after distillation and replay: strategy=[replay,lwf,bic], of whose memory it takes a tenth. What
    corrected earlier tasks' classes is dropped when the next has come: by then they are old ones. It owns a task's parts and
    the answer. Where no class is new, nothing is done. Stores samples and two numbers.
    """

    name: ClassVar[str] = "bic"
    keeps = ("memory", "known", "new", "scale", "shift")

    capacity: int = 200
    buffer: str = "class_balanced"
    held_out: float = 0.1
    known: list[int] = field(default_factory=list, init=False)
    new: list[int] = field(default_factory=list, init=False)
    scale: float = field(default=1.0, init=False)
    shift: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.bic.held_out", self.held_out, 0, 0.9, above=True)

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_features("bic", model, stream)
        super().check(model, stream)

    def parts(self, task: Task) -> Sequence[Task]:
        """Return the task without what is held out of it."""
        self.kept_back, rest = self._divided(task)
        return [task.learning_from(rest)]

    def _divided(self, task: Task) -> tuple[Part, Part]:
        """Return the held-out share of each class, none of a class with a single sample, and what is left."""
        labels, rng = task.train.labels, generator(self.seed, "bic", task.index)
        held = torch.zeros(len(labels), dtype=torch.bool)
        for label in labels.unique():
            own = (labels == label).nonzero().squeeze(1)
            count = min(len(own) - 1, max(1, round(self.held_out * len(own))))
            held[own[torch.randperm(len(own), generator=rng)[:count]]] = True
        return Part(task.train, held.nonzero().squeeze(1)), Part(task.train, (~held).nonzero().squeeze(1))

    def after_task(self, scope: Scope, task: Task) -> None:
        """Take up what was held out, and fit the two numbers where there are old classes and new ones."""
        for batch in self.kept_back.batches(1024):
            self.memory.add(batch)
        self.new = sorted(set(task.classes) - set(self.known)) if self.known else []
        self.known = sorted({*self.known, *task.classes})
        self.scale, self.shift = 1.0, 0.0
        if self.new and len(self.memory):
            logits, y = [], []
            with torch.no_grad(), evaluating(scope.model):
                for batch in MemorySource(self.memory.all()).batches(256):
                    logits.append(task.logits(scope.model, batch).double().cpu())
                    y.append(batch.y.cpu())
            self.scale, self.shift = correction(torch.cat(logits), torch.cat(y), self.new)

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Let the corrected head answer."""
        if not self.new:
            yield
            return
        head = copied(model)
        for values in (head.weight.data, head.bias.data):
            values[self.new] *= self.scale
        head.bias.data[self.new] += self.shift
        with with_head(model, head):
            yield

    def work(self, size: int) -> int:
        """Return 0: none is added to a batch."""
        return 0

    def remembered(self) -> Iterable[Batch] | None:
        """Return nothing."""
        return ()


def correction(logits: Tensor, y: Tensor, new: Sequence[int]) -> tuple[float, float]:
    """Return the scale and the shift of the new classes' logits [B, C] with the least cross-entropy for labels y [B]."""
    from scipy.optimize import minimize

    changed = flags(new, logits[0])

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(numbers, requires_grad=True)
        value = F.cross_entropy(torch.where(changed, at[0] * logits + at[1], logits), y)
        (gradient,) = torch.autograd.grad(value, at)
        return float(value.detach()), gradient.numpy()

    with torch.enable_grad():
        found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS")
    return float(found.x[0]), float(found.x[1])
