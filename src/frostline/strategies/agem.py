"""Averaged GEM: one constraint instead of one a task."""

from dataclasses import dataclass
from typing import ClassVar

from frostline.core.projection import away_from, flat, unflat
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.types import Batch, Task
from frostline.strategies.base import Grads
from frostline.strategies.gem import gradient_on
from frostline.strategies.memory import Remembering


@dataclass
class AGEM(Remembering):
    """Take out of the gradient what points against that of samples from memory (Chaudhry et al. 2019, arXiv 1812.00420).

    Adds a forward and a backward pass over `batch_size` samples, as many as came in where None, and two passes over the
    gradient, to a step. buffer: reservoir, class_balanced or ring; the paper's keeps equally many of each task. Stores
    samples.
    """

    name: ClassVar[str] = "agem"

    buffer: str = "class_balanced"

    def project(self, step: Step, batch: Batch, grads: Grads) -> Grads:
        """Return the gradient without what would raise the loss in memory."""
        if not len(self.memory):
            return grads
        like = {name: step.scope.parameters[name] for name in grads}
        old = gradient_on(step, self.draw(step), like)
        return unflat(away_from(flat(grads, like), old), like)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Offer the task's samples to the memory."""
        for batch in self.in_any_order(task):
            self.memory.add(batch)

    def recalls(self) -> bool:
        """Return whether it holds on to earlier tasks and does nothing else: it does."""
        return True
