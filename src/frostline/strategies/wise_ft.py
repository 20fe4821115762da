"""Meet halfway: between the weights before a task and those after it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range, one_of
from frostline.core.scope import Scope, tensors_of
from frostline.core.types import Task
from frostline.strategies.base import Strategy


@dataclass
class WiSEFT(Strategy):
    """Set theta <- (1 - share) * theta_before + share * theta_after when a task ends (Wortsman et al. 2022).

    arXiv 2109.01903. before: the weights with which the 'task' began, or those of the 'start', before any training, as in the
    paper, which has one task. warmup_tasks keep all that they learned. Running statistics are met halfway too. Adds nothing to
    a step. Stores while a task is learned a copy of what trains; from the start one of all that has trained.
    """

    keeps = ("old",)

    share: float = 0.5
    before: str = "task"
    warmup_tasks: int = 1
    old: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        in_range("strategy.wise_ft.share", self.share, 0, 1)
        in_range("strategy.wise_ft.warmup_tasks", self.warmup_tasks, 0)
        one_of("strategy.wise_ft.before", self.before, ("task", "start"))

    def thawing(self, scope: Scope, task: Task) -> None:
        """Copy what is about to move."""
        if task.index >= self.warmup_tasks:
            self.old = scope.snapshot(self.old)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Go back part of the way."""
        with torch.no_grad():
            for name, now in tensors_of(scope.model, self.old).items():
                if now.is_floating_point() and (name in scope.names or not isinstance(now, nn.Parameter)):
                    now.copy_(torch.lerp(self.old[name], now, self.share))
        if self.before == "task":
            self.old = {}
