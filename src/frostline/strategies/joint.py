"""The upper bounds: all data at once, and all data so far."""

from dataclasses import dataclass, field
from typing import Any

from frostline.sources import joined
from frostline.strategies.base import Strategy
from frostline.types import Task, TaskStream


@dataclass
class Joint(Strategy):
    """Wait until the last task has arrived, then learn all tasks at once.

    No row of the accuracy matrix between the first and the last exists, so metrics that need them are null.
    """

    _bytes: int = field(default=0, init=False)

    def task(self, stream: TaskStream, index: int) -> Task | None:
        """Return the union of all tasks when the last one arrives."""
        train = joined([task.train for task in stream.tasks[: index + 1]])
        self._bytes = train.nbytes
        return stream[index].learning_from(train) if index == len(stream) - 1 else None

    def stored_bytes(self) -> int:
        """Return the bytes of the data kept."""
        return self._bytes

    def state_dict(self) -> dict[str, Any]:
        return {"bytes": self._bytes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._bytes = state["bytes"]


@dataclass
class Cumulative(Joint):
    """Learn from the data of all tasks so far, each time a task arrives."""

    def task(self, stream: TaskStream, index: int) -> Task | None:
        """Return the union of the tasks up to this one."""
        train = joined([task.train for task in stream.tasks[: index + 1]])
        self._bytes = train.nbytes
        return stream[index].learning_from(train)
