"""The lower bound of what learning costs: nothing is learned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from frostline.core.checks import in_range
from frostline.core.types import Task
from frostline.strategies.base import Strategy


@dataclass
class Frozen(Strategy):
    """Learn the first `warmup_tasks` and nothing after them: what never learning gets right. Stores nothing."""

    name: ClassVar[str] = "frozen"

    warmup_tasks: int = 1

    def __post_init__(self) -> None:
        in_range(f"strategy.{self.name}.warmup_tasks", self.warmup_tasks, 0)

    def parts(self, task: Task) -> Sequence[Task]:
        """Return no training after the first tasks."""
        return [task if task.index < self.warmup_tasks else replace(task, epochs=0)]
