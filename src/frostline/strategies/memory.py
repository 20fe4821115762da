"""A memory of samples and what is drawn from it: what replay, DER++, A-GEM, FDR and CLS-ER have in common."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from frostline.core.buffers import Buffer
from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.importance import probe
from frostline.core.rng import generator
from frostline.core.step import Step
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies.base import Strategy, needs_classes


@dataclass
class Remembering(Strategy):
    """Keep up to `capacity` samples by a rule, and look at `batch_size` of them at a step, as many as came in where None.

    buffer: reservoir, class_balanced or ring.
    """

    name: ClassVar[str]
    keeps = ("memory",)

    capacity: int = 500
    batch_size: int | None = None
    buffer: str = "reservoir"
    seed: int = 0

    def __post_init__(self) -> None:
        in_range(f"strategy.{self.name}.capacity", self.capacity, 1)
        in_range(f"strategy.{self.name}.batch_size", self.batch_size, 1)
        one_of(f"strategy.{self.name}.buffer", self.buffer, Buffer.RULES)
        self.memory = Buffer(self.capacity, self.buffer, self.seed)

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_a_place_each(self.name, self.memory, stream)

    def draw(self, step: Step) -> Batch:
        """Return samples from memory for a step."""
        return self.memory.draw(self.batch_size or len(step.incoming))

    def in_any_order(self, task: Task, size: int = 1024) -> Iterable[Batch]:
        """Yield the task's samples, in an order of the memory's own, to be offered to it."""
        return probe(task, None, generator(self.seed, f"{self.name} order", task.index), size)

    def work(self, size: int) -> int:
        """Return how many samples are looked at beside a batch of `size`."""
        return min(len(self.memory), self.batch_size or size)

    def remembered(self) -> Iterable[Batch]:
        """Return what is in memory."""
        return [self.memory.all()] if len(self.memory) else []


def needs_a_place_each(name: str, memory: Buffer, stream: TaskStream) -> None:
    """Raise UsageError where a memory is to keep equally many of each class, but has too few places or no classes to go by."""
    if memory.rule == "reservoir":
        return
    needs_classes(f"{name} with buffer={memory.rule}", stream, instead=f" strategy.{name}.buffer=reservoir needs none.")
    if memory.capacity < stream.classes:
        raise UsageError(
            f"strategy.{name}.capacity={memory.capacity}: {memory.rule} keeps equally many of each of "
            f"{stream.classes} classes, some would have none. The nearest valid value is {stream.classes}."
        )
