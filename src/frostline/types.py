"""What is learned from: batches, sources of batches, tasks and streams of tasks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B samples with their labels, the task that each belongs to, and their ids within the stream.

    x [B, ...] float, y [B] int64, task [B] int64, index [B] int64.
    """

    x: Tensor
    y: Tensor
    task: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device` (itself where it already is)."""
        return Batch(*(t.to(device, non_blocking=True) for t in (self.x, self.y, self.task, self.index)))

    def cat(self, other: "Batch") -> "Batch":
        """Return both batches as one."""
        pairs = ((self.x, other.x), (self.y, other.y), (self.task, other.task), (self.index, other.index))
        return Batch(*(torch.cat(pair) for pair in pairs))


@runtime_checkable
class Source(Protocol):
    """Data that can be walked through in a given order; where it lives is its own business."""

    def __len__(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Bytes that keeping these samples takes."""
        ...

    @property
    def labels(self) -> Tensor:
        """All labels [N] on the CPU, in index order."""
        ...

    def batches(
        self, size: int, order: Tensor | None = None, start: int = 0, *, samples: bool = True
    ) -> Iterator[Batch]:
        """Yield batches of `size` in `order` (a permutation [N] on the CPU), from batch number `start` on.

        samples: false leaves x empty ([B, 0]) and reads nothing, for whoever knows the samples by their ids.
        """
        ...


@dataclass(frozen=True)
class Task:
    """One thing to learn: its data, its classes, and which logits count.

    visible [T, C] bool: row j are the classes among which a sample of task j is decided while this task is learned;
    None where every class counts for every sample.
    """

    index: int
    name: str
    classes: tuple[int, ...]
    train: Source
    test: Source
    validation: Source | None = None
    visible: Tensor | None = None

    def mask(self, batch: Batch) -> Tensor | None:
        """Return the visible classes: [C] where all samples share them, else of each sample, [B, C]; None where all are."""
        if self.visible is None:
            return None
        return self.visible[batch.task] if self._shared is None else self._shared

    @cached_property
    def _shared(self) -> Tensor | None:
        """The classes among which samples of every task are decided, if they are the same ones."""
        rows = self.visible
        return None if rows is None or bool((rows != rows[self.index]).any()) else rows[self.index]

    def learning_from(self, train: Source) -> "Task":
        """Return this task with other training data."""
        return replace(self, train=train)


@dataclass(frozen=True)
class TaskStream:
    """A sequence of tasks.

    `classes` is the number of logits, `shape` the shape of one sample. `visible[i]` is the mask of Task.visible at
    the time of task i, so that the whole stream can say what counted when.
    """

    name: str
    scenario: str
    tasks: tuple[Task, ...]
    classes: int
    shape: tuple[int, ...]
    online: bool = False

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index]

    def visible_at(self, moment: int, task: int) -> Tensor | None:
        """Return the classes [C] among which a test sample of `task` is decided after learning task `moment`.

        A task that has not been learned yet is decided among the classes visible when its own turn comes.
        """
        mask = self.tasks[max(moment, task)].visible
        return None if mask is None else mask[task]
