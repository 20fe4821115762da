"""The upper bounds: all data at once, and all data so far."""

from dataclasses import dataclass, field

from frostline.core.joining import joined
from frostline.core.types import Task, TaskStream
from frostline.strategies.base import Strategy


@dataclass
class _Union(Strategy):
    """Learn from the data of several tasks as one."""

    keeps = ("bytes",)

    bytes: int = field(default=0, init=False)

    def union(self, stream: TaskStream, index: int) -> Task:
        """Return task `index` with the training data of all tasks up to it."""
        train = joined([task.train for task in stream.tasks[: index + 1]])
        self.bytes = train.nbytes
        return stream[index].learning_from(train)

    def stored_bytes(self) -> int:
        """Return the bytes of the data kept."""
        return self.bytes


@dataclass
class Joint(_Union):
    """Wait until the last task has arrived, then learn all tasks at once.

    Stores all data. No row of the accuracy matrix between the first and the last exists, so metrics that need them are null.
    """

    def task(self, stream: TaskStream, index: int) -> Task | None:
        """Return the union of all tasks when the last one arrives."""
        union = self.union(stream, index)
        return union if index == len(stream) - 1 else None


@dataclass
class Cumulative(_Union):
    """Learn from the data of all tasks so far, each time a task arrives. Stores all data."""

    def task(self, stream: TaskStream, index: int) -> Task | None:
        """Return the union of the tasks up to this one."""
        return self.union(stream, index)
