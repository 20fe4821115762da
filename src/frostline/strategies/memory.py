"""A memory of samples and what comes of it, a draw at each step (replay, DER++, A-GEM) or more data for a task (iCaRL)."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from frostline.core.buffers import Buffer
from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.features import class_sums, needs_linear_head
from frostline.core.herding import herding_order
from frostline.core.importance import probe
from frostline.core.joining import joined
from frostline.core.rng import generator
from frostline.core.scope import Scope, with_head
from frostline.core.sources import MemorySource
from frostline.core.step import Step
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies.base import Strategy, needs_classes
from frostline.strategies.ncm import nearest_mean


@dataclass
class Remembering(Strategy):
    """Keep up to `capacity` samples by a rule, and look at `batch_size` of them at a step, as many as came in where None.

    buffer: reservoir, class_balanced or ring; herding where whole tasks are offered, at their ends.
    """

    name: ClassVar[str]
    rules: ClassVar[Sequence[str]] = ("reservoir", "class_balanced", "ring")
    keeps = ("memory",)

    capacity: int = 500
    batch_size: int | None = None
    buffer: str = "reservoir"
    seed: int = 0

    def __post_init__(self) -> None:
        in_range(f"strategy.{self.name}.capacity", self.capacity, 1)
        in_range(f"strategy.{self.name}.batch_size", self.batch_size, 1)
        one_of(f"strategy.{self.name}.buffer", self.buffer, self.rules)
        self.memory = Buffer(self.capacity, self.buffer, self.seed)

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_a_place_each(self.name, self.memory, stream)
        if self.buffer == "herding":
            needs_linear_head(f"{self.name} with buffer=herding", model)

    def draw(self, step: Step) -> Batch:
        """Return samples from memory for a step."""
        return self.memory.draw(self.batch_size or len(step.incoming))

    def fill(self, model: nn.Module, task: Task) -> None:
        """Offer the task's samples to the memory, now that it is over."""
        if self.buffer != "herding":
            for batch in self.in_any_order(task):
                self.memory.add(batch)
            return
        classes = len({*self.memory.labels.tolist(), *task.train.labels.tolist()})
        order = herding_order(model, task.train, -(-self.capacity // classes) + 1)
        for number, batch in enumerate(task.train.batches(256)):
            own = order[256 * number :][: len(batch)]
            self.memory.add(batch.rows(torch.from_numpy(own < np.inf)), own[own < np.inf])

    def in_any_order(self, task: Task, size: int = 1024) -> Iterable[Batch]:
        """Yield the task's samples, in an order of the memory's own, to be offered to it."""
        return probe(task, None, generator(self.seed, f"{self.name} order", task.index), size)

    def work(self, size: int) -> Hashable:
        """Return how many samples are looked at beside a batch of `size`."""
        return min(len(self.memory), self.batch_size or size)

    def remembered(self) -> Iterable[Batch]:
        """Return what is in memory."""
        return [self.memory.all()] if len(self.memory) else []


@dataclass
class Exemplars(Remembering):
    """Learn each task's samples together with those in memory, as one set of data, as iCaRL, LUCIR and IL2M do."""

    rules = ("reservoir", "class_balanced", "ring", "herding")

    capacity: int = 2000
    buffer: str = "herding"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.arrived: Task | None = None

    def parts(self, task: Task) -> Sequence[Task]:
        """Return the task with the exemplars among its samples."""
        self.arrived = task
        if not len(self.memory):
            return [task]
        return [task.learning_from(joined([task.train, MemorySource(self.memory.all())]))]

    def after_task(self, scope: Scope, task: Task) -> None:
        """Choose exemplars among what came with the task."""
        assert self.arrived is not None
        self.fill(scope.model, self.arrived)

    def work(self, size: int) -> int:
        """Return 0: none is added to a batch."""
        return 0

    def remembered(self) -> Iterable[Batch] | None:
        """Return nothing: the data are the task's own."""
        return ()


class NearestExemplar:
    """Decide by the nearest class mean of what is in memory, as iCaRL and SCR do."""

    memory: Buffer
    means: Tensor  # [C, D], of any length; empty before there are some

    def take_means(self, model: nn.Module) -> None:
        """Work out where each class's samples in memory are on average."""
        self.means = class_sums(model, MemorySource(self.memory.all()))

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Let the nearest mean decide, once there are means."""
        if not len(self.means):
            yield
            return
        with with_head(model, nearest_mean(self.means, "icarl")):
            yield


def needs_a_place_each(name: str, memory: Buffer, stream: TaskStream) -> None:
    """Raise UsageError where a memory is to keep equally many of each class, but has too few places or no classes to go by."""
    if memory.rule in ("reservoir", "gss"):
        return
    needs_classes(f"{name} with buffer={memory.rule}", stream, instead=f" strategy.{name}.buffer=reservoir needs none.")
    if memory.capacity < stream.classes:
        raise UsageError(
            f"strategy.{name}.capacity={memory.capacity}: {memory.rule} keeps equally many of each of "
            f"{stream.classes} classes, some would have none. The nearest valid value is {stream.classes}."
        )
