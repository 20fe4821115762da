"""Function distance regularisation: stay near the function that was learned, where it can be looked at."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range
from frostline.core.scope import Scope, evaluating
from frostline.core.step import Step
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies.base import needs_classes
from frostline.strategies.memory import Remembering


@dataclass
class FDR(Remembering):
    """Add strength * |p(x) - p_old(x)| for the probabilities that the net gave when their task ended (Benjamin et al. 2018).

    arXiv 1805.08289. The distance is the mean over samples from memory of the euclidean one. Stores samples and
    probabilities. Adds a forward and a backward pass over `batch_size` samples, as many as came in where None, to a step.
    """

    name: ClassVar[str] = "fdr"

    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.fdr.strength", self.strength, 0)

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        super().check(model, stream)
        needs_classes("fdr", stream, several=True)

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the distance from what the net said."""
        if not len(self.memory) or not self.strength:
            return logits.new_zeros(())
        drawn = self.draw(step)
        now = step.forward(drawn, masked=False).softmax(-1)
        away = (now - drawn.columns["said"]).flatten(1).square().sum(1)
        return self.strength * (away + 1e-12).sqrt().mean()  # a root has no gradient at 0

    def after_task(self, scope: Scope, task: Task) -> None:
        """Offer the task's samples with what the net says of them now."""
        with torch.no_grad(), evaluating(scope.model):
            for batch in self.in_any_order(task, 256):
                self.memory.add(batch.having(said=scope.model(batch.x).float().softmax(-1)))

    def recalls(self) -> bool:
        """Return whether it holds on to earlier tasks and does nothing else: it does."""
        return True
