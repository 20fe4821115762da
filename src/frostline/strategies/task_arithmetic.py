"""Task arithmetic: what each task changed, added up."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from frostline.core.checks import in_range, one_of
from frostline.core.scope import Scope, tensors_of
from frostline.core.types import Task
from frostline.strategies.from_scratch import FromScratch


@dataclass
class TaskArithmetic(FromScratch):
    """Learn every task from the same start, theta_0, and serve theta_0 + scale * merge(theta_t - theta_0).

    merge 'sum': Ilharco et al. 2023, arXiv 2212.04089. merge 'ties': Yadav et al. 2023, arXiv 2306.01708: of each task's
    change the `keep` largest values count; where tasks disagree about a direction, the one with more to it wins, and those
    that agree with it are averaged. For pretrained nets: from a random start what tasks change has little in common. Running
    statistics are those of the latest task. Adds nothing to a step. Stores the start, and what changed, once a task.
    """

    keeps = ("initial", "fresh", "changes")

    merge: str = "sum"
    scale: float = 0.4
    keep: float = 0.2
    changes: list[dict[str, Tensor]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        one_of("strategy.task_arithmetic.merge", self.merge, ("sum", "ties"))
        in_range("strategy.task_arithmetic.scale", self.scale, 0, above=True)
        in_range("strategy.task_arithmetic.keep", self.keep, 0, 1, above=True)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Note what the task changed, and put all changes together."""
        super().after_task(scope, task)
        now = tensors_of(scope.model, {name: p for name, p in self.initial.items() if name in scope.names})
        self.changes.append({name: p.detach() - self.initial[name] for name, p in now.items()})
        for name, p in now.items():
            of_tasks = [change[name] for change in self.changes if name in change]
            merged = torch.stack(of_tasks).sum(0) if self.merge == "sum" else ties(of_tasks, self.keep)
            p.data = self.initial[name] + self.scale * merged


def ties(changes: list[Tensor], keep: float) -> Tensor:
    """Return the changes trimmed, their signs elected, merged where they agree (Yadav et al. 2023)."""
    trimmed = []
    for change in changes:
        count = max(1, round(keep * change.numel()))
        least = change.abs().flatten().kthvalue(change.numel() - count + 1).values
        trimmed.append(torch.where(change.abs() >= least, change, 0.0))
    stacked = torch.stack(trimmed)
    sign = stacked.sum(0).sign()
    agree = (stacked.sign() == sign) & (stacked != 0)
    return (stacked * agree).sum(0) / agree.sum(0).clamp(min=1)
