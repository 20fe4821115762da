"""GDumb: a balanced memory, and a net that learns from nothing else, from scratch, at every task."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from frostline.core.buffers import Buffer
from frostline.core.checks import in_range
from frostline.core.importance import probe
from frostline.core.rng import generator
from frostline.core.sources import MemorySource
from frostline.core.types import Task, TaskStream
from frostline.strategies.base import needs_classes
from frostline.strategies.from_scratch import FromScratch
from frostline.strategies.memory import needs_a_place_each


@dataclass
class GDumb(FromScratch):
    """Train the net, from its start and at each task, on a balanced memory alone (Prabhu et al. 2020, ECCV).

    The memory has equally many samples of each class. epochs: passes over it, as many as trainer.epochs where None. The
    authors take 256, with a rate that is restarted again and again, and CutMix on all but MNIST. Stores samples, and the
    initial values of what trains.
    """

    keeps = ("initial", "fresh", "memory", "offered")

    capacity: int = 500
    epochs: int | None = None
    seed: int = 0
    offered: int = field(default=0, init=False)  # tasks

    def __post_init__(self) -> None:
        in_range("strategy.gdumb.capacity", self.capacity, 1)
        in_range("strategy.gdumb.epochs", self.epochs, 1)
        self.memory = Buffer(self.capacity, "class_balanced", self.seed)

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_classes("gdumb", stream)
        needs_a_place_each("gdumb", self.memory, stream)

    def parts(self, task: Task) -> Sequence[Task]:
        """Offer the task's samples to the memory, and learn from what is there."""
        if self.offered == task.index:
            for batch in probe(task, None, generator(self.seed, "gdumb", task.index), 1024):
                self.memory.add(batch)
            self.offered += 1
        return [replace(task, train=MemorySource(self.memory.all()), epochs=self.epochs or task.epochs)]
