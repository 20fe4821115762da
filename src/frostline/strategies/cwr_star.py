"""CWR*: a head that is trained anew for each task, and joined with what earlier tasks left."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from frostline.core.heads import copied
from frostline.core.scope import Scope
from frostline.core.tensors import flags
from frostline.core.types import Task, TaskStream
from frostline.strategies.base import Strategy, needs_features


@dataclass
class CWRStar(Strategy):
    """Begin each task with old rows for its known classes and zeros for all others, and join the rows when it ends.

    Lomonaco et al. 2020, arXiv 1907.03799. A class's row becomes (w * old + trained - mean trained row of the task's
    classes) / (w + 1) with w = sqrt(samples before / samples now); biases go with their rows. The paper trains nothing but
    the head after the first task, as conf/strategy/cwr_star.yaml has it with selector=head. Where the head does not train,
    nothing is done. Stores C x D numbers.
    """

    name: ClassVar[str] = "cwr_star"
    keeps = ("joined", "counts", "begun")

    def __post_init__(self) -> None:
        self.joined, self.counts = torch.zeros(0, 0), torch.zeros(0)  # rows with their biases
        self.begun = -1

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_features("cwr_star", model, stream)

    def before_task(self, scope: Scope, task: Task) -> None:
        """Let the head begin with what is known of the task's classes, and nothing of others."""
        if "head.weight" not in scope.names or self.begun == task.index:
            return
        self.begun = task.index
        if not len(self.joined):
            self.joined = torch.zeros_like(_rows(scope))
            self.counts = torch.zeros_like(self.joined[:, 0])
        own = flags(task.classes, self.counts)
        _write(scope, torch.where(own[:, None], self.joined, 0.0))

    def after_task(self, scope: Scope, task: Task) -> None:
        """Join the rows of the task's classes with those of earlier tasks."""
        if self.begun != task.index:
            return
        trained, classes = _rows(scope), list(task.classes)
        now = torch.bincount(task.train.labels, minlength=len(trained)).to(trained)[classes]
        past = (self.counts[classes] / now.clamp(min=1)).sqrt()[:, None]
        fresh = trained[classes] - trained[classes].mean(0)
        self.joined, self.counts = self.joined.clone(), self.counts.clone()
        self.joined[classes] = (self.joined[classes] * past + fresh) / (past + 1)
        self.counts[classes] += now
        _write(scope, self.joined)


def _rows(scope: Scope) -> Tensor:
    """Return the head's rows with their biases [C, D + 1]."""
    head = copied(scope.model)
    return torch.cat((head.weight.data, head.bias.data[:, None]), 1)


def _write(scope: Scope, rows: Tensor) -> None:
    scope.model.get_parameter("head.weight").data = rows[:, :-1].clone()
    if "head.bias" in scope.names:
        scope.model.get_parameter("head.bias").data = rows[:, -1].clone()
