"""Experience replay: mix a few stored samples into every batch."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from frostline.core.buffers import Buffer
from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.retrieval import RULES, likeness, worst
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.types import Batch, Task
from frostline.strategies.memory import Remembering


@dataclass
class Replay(Remembering):
    """Keep `capacity` samples and add some to each batch (Chaudhry et al. 2019, arXiv 1902.10486).

    The number of steps stays that of the task's own data; the batch grows by `batch_size` samples (as many as came in,
    where None), or by all that is held if that is fewer. buffer: reservoir, class_balanced, ring, herding, or gss,
    which keeps samples whose gradients are unlike those of `compared` others (Aljundi et al. 2019, arXiv 1903.08671).
    update: 'task' fills the buffer from the task's training data when the task ends, so that within a task only older
    tasks are replayed; 'step' offers every batch as it passes (for streams that are seen once). retrieve: 'random'; or, of
    `candidates` drawn at random, those of the highest 'loss', or those that a step along the incoming batch's
    gradient would harm most, 'mir' (Aljundi et al. 2019, arXiv 1908.04742). Stores samples. Adds `batch_size` samples
    to a step; with 'loss' an evaluation-mode forward pass over the candidates, with 'mir' two, and a forward and a backward
    pass over the incoming batch; with gss a gradient for each sample of the batch and of those compared.
    """

    name: ClassVar[str] = "replay"
    rules = Buffer.RULES

    update: str = "task"
    retrieve: str = "random"
    candidates: int = 50
    compared: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("strategy.replay.update", self.update, ("task", "step"))
        one_of("strategy.replay.retrieve", self.retrieve, RULES)
        in_range("strategy.replay.candidates", self.candidates, 1)
        in_range("strategy.replay.compared", self.compared, 1)
        if self.buffer == "herding" and self.update == "step":
            raise UsageError(
                "strategy.replay.buffer=herding puts whole classes in an order, and update=step offers them batch by batch. "
                "Expected update=task, or buffer=class_balanced."
            )
        if self.buffer == "gss" and self.update == "task":
            raise UsageError(
                "strategy.replay.buffer=gss looks at gradients as samples are learned from. Expected "
                "strategy.replay.update=step."
            )

    def work(self, size: int) -> Hashable:
        """Return how many samples are added to a batch of `size`, and among how many they are chosen."""
        if self.buffer == "gss":
            return super().work(size), min(
                len(self.memory), max(self.candidates, self.compared, self.batch_size or size)
            )
        if self.retrieve == "random":
            return super().work(size)
        return super().work(size), min(len(self.memory), max(self.batch_size or size, self.candidates))

    def recalls(self) -> bool:
        """Return whether a task's own samples are never replayed within it."""
        return self.update == "task"

    def draw(self, step: Step) -> Batch:
        """Return samples from memory for a step, by the rule of retrieval."""
        if self.retrieve == "random":
            return super().draw(step)
        count = self.batch_size or len(step.incoming)
        pool = self.memory.draw(max(count, self.candidates))
        return worst(step, pool, count, self.retrieve)

    def augment(self, step: Step, batch: Batch) -> Batch:
        """Return the batch with samples from memory."""
        mixed = batch.cat(self.draw(step)) if len(self.memory) else batch
        if self.update == "step":
            self.memory.add(step.incoming, self.likeness(step) if self.buffer == "gss" else None)
        return mixed

    def likeness(self, step: Step) -> np.ndarray:
        """Return what each incoming sample has in common with some that are held."""
        return likeness(step, step.incoming, self.memory.draw(self.compared) if len(self.memory) else None)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Offer the task's samples to the buffer."""
        if self.update == "task":
            self.fill(scope.model, task)
