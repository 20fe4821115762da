"""Rules that let other parts train every so many steps: what LISA and BAdam have in common."""

from dataclasses import dataclass

from torch import nn

from frostline.core.checks import in_range
from frostline.core.types import Task
from frostline.costs import TaskCosts
from frostline.selectors.base import Change, Selector


@dataclass
class Turns(Selector):
    """Thaw what a subclass says for `interval` steps, then what it says for the next turn."""

    interval: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("selector.interval", self.interval, 1)

    def at(self, model: nn.Module, task: Task, number: int) -> frozenset[str]:
        """Return what trains in turn `number` of a task, from 0; the same whenever it is asked."""
        raise NotImplementedError

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        return self.at(model, task, 0)

    def change(self, model: nn.Module, task: Task, names: frozenset[str], step: int, steps: int) -> Change:
        number = step // self.interval
        return Change(self.at(model, task, number), until=(number + 1) * self.interval)
