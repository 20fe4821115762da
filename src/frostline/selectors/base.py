"""Selector: model, task and costs in, names of the parameters to thaw out."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from frostline.checks import in_range
from frostline.scope import everything
from frostline.types import Task

StepCost = Callable[[frozenset[str]], int]  # operations of one training step with exactly these parameters thawed


@dataclass
class Selector:
    """Thaw everything for the first `warmup_tasks` tasks, then what `choose` says.

    A randomly initialised net has nothing worth freezing, which is what the warm-up is for.
    """

    warmup_tasks: int = 0

    def __post_init__(self) -> None:
        in_range("selector.warmup_tasks", self.warmup_tasks, 0)

    def __call__(self, model: nn.Module, task: Task, costs: StepCost) -> frozenset[str]:
        """Return the full names of the parameters to thaw for this task."""
        return everything(model) if task.index < self.warmup_tasks else self.choose(model, task, costs)

    def choose(self, model: nn.Module, task: Task, costs: StepCost) -> frozenset[str]:
        """Return the choice after the warm-up."""
        return everything(model)

    def check(self, model: nn.Module) -> None:
        """Raise UsageError for a setting that does not fit the model; called before any training."""
