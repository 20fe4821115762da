"""Weight aligning: new classes do not speak louder than old ones."""

from dataclasses import dataclass, field

import torch
from torch import nn

from frostline.core.scope import Scope
from frostline.core.structure import head
from frostline.core.types import Task, TaskStream
from frostline.strategies.base import Strategy, needs_classes


@dataclass
class WA(Strategy):
    """Scale the head's rows of a task's new classes to the mean length of the old ones' when it ends (Zhao et al. 2020).

    arXiv 1911.07053. The paper has it after distillation and replay: strategy=[replay,lwf,wa]. Biases stay, as in the authors'
    code. Where no class is new, or the head does not train, nothing is done. Stores nothing.
    """

    keeps = ("known",)

    known: list[int] = field(default_factory=list, init=False)

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_classes("wa", stream, several=True)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Align the new rows."""
        new = sorted(set(task.classes) - set(self.known))
        for name in head(scope.model) & scope.names if self.known and new else ():
            p = scope.model.get_parameter(name)
            if p.ndim == 2:
                with torch.no_grad():
                    length = p.norm(dim=1)
                    p[new] *= length[self.known].mean() / length[new].mean().clamp(min=1e-12)
        self.known = sorted({*self.known, *new})
