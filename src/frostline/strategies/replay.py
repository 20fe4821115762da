"""Experience replay: mix a few stored samples into every batch."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import torch

from frostline.core.buffers import Buffer
from frostline.core.checks import in_range, one_of
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.types import Batch, Task
from frostline.strategies.base import Strategy


@dataclass
class Replay(Strategy):
    """Keep `capacity` samples and add some to each batch (Chaudhry et al. 2019, arXiv 1902.10486).

    The number of steps stays that of the task's own data; the batch grows by `batch_size` samples (as many as came in,
    where None), or by all that is held if that is fewer. buffer: reservoir, class_balanced or ring.
    update: 'task' fills the buffer from the task's training data when the task ends, so that within a task only older
    tasks are replayed; 'step' offers every batch as it passes (for streams that are seen once). Stores samples. Adds
    `batch_size` samples to a step.
    """

    keeps = ("memory",)

    capacity: int = 500
    batch_size: int | None = None
    buffer: str = "reservoir"
    update: str = "task"
    seed: int = 0

    def __post_init__(self) -> None:
        in_range("strategy.replay.capacity", self.capacity, 1)
        in_range("strategy.replay.batch_size", self.batch_size, 1)
        one_of("strategy.replay.buffer", self.buffer, Buffer.RULES)
        one_of("strategy.replay.update", self.update, ("task", "step"))
        self.memory = Buffer(self.capacity, self.buffer, self.seed)

    def recalls(self) -> bool:
        """Return whether a task's own samples are never replayed within it."""
        return self.update == "task"

    def augment(self, step: Step, batch: Batch) -> Batch:
        """Return the batch with samples from memory."""
        wanted = self.batch_size or len(step.incoming)
        mixed = batch.cat(self.memory.draw(wanted)) if len(self.memory) else batch
        if self.update == "step":
            self.memory.add(step.incoming)
        return mixed

    def after_task(self, scope: Scope, task: Task) -> None:
        """Offer the task's samples to the buffer."""
        if self.update == "task":
            order = torch.randperm(len(task.train), generator=generator(self.seed, "replay order", task.index))
            for batch in task.train.batches(1024, order):
                self.memory.add(batch)

    def work(self, size: int) -> Hashable:
        """Return how many samples will be added to a batch of `size`."""
        return min(len(self.memory), self.batch_size or size)

    def remembered(self) -> Iterable[Batch]:
        """Return what is in memory."""
        return [self.memory.all()] if len(self.memory) else []
