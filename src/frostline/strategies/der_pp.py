"""Dark experience replay: repeat the answers that were given, not only the labels."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from frostline.core.checks import in_range
from frostline.core.step import Step
from frostline.core.types import Batch
from frostline.strategies.memory import Remembering

ANSWERS, LABELS = 1, 2  # what a row that this method added is there for


@dataclass
class DERpp(Remembering):
    """Add alpha * ||logits - stored logits||^2 and beta * cross-entropy on samples from memory.

    Buzzega et al. 2020, arXiv 2004.07211. Both terms have a draw of their own, as in the paper; the squared error is the mean
    over logits, as in the authors' code. The memory is a reservoir over all batches, with the raw logits that the model gave
    when they passed. beta=0 is DER, without its second draw. Random images (trainer.augment) are drawn anew for stored
    samples, their logits are those of the image that was seen. Stores samples and logits. Adds up to twice the incoming batch
    to a step. It owns the loss.
    """

    name: ClassVar[str] = "der_pp"

    alpha: float = 0.1
    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.der_pp.alpha", self.alpha, 0)
        in_range("strategy.der_pp.beta", self.beta, 0)

    def augment(self, step: Step, batch: Batch) -> Batch:
        """Return the batch with a draw for each term, marked in the column `der_pp`."""
        if len(self.memory):
            for purpose in self._purposes():
                drawn = self.draw(step)
                batch = batch.cat(drawn.having(der_pp=torch.full_like(drawn.y, purpose)))
        return batch

    def criterion(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the mean loss of what came in and of what others replay, and beta times that of the draw for labels."""
        if "der_pp" not in batch.columns:
            return step.loss(logits, batch.y)
        mark = batch.columns["der_pp"]
        loss = step.loss(logits[mark == 0], batch.y[mark == 0])
        if not self.beta:
            return loss
        again = mark == LABELS
        return loss + self.beta * step.loss(logits[again], batch.y[again])

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return alpha times the mean squared distance from the stored logits."""
        if "der_pp" not in batch.columns:
            return logits.new_zeros(())
        rows = batch.columns["der_pp"] == ANSWERS
        return self.alpha * (step.raw[rows] - batch.columns["answers"][rows]).square().mean()

    def after_step(self, step: Step, batch: Batch, grads: dict[str, Tensor]) -> None:
        """Offer what came in to the memory, with the logits that it got."""
        self.memory.add(step.incoming.having(answers=step.raw[~batch.replayed].detach()))

    def work(self, size: int) -> int:
        """Return how many samples will be added to a batch of `size`."""
        return len(self._purposes()) * min(len(self.memory), self.batch_size or size)

    def _purposes(self) -> list[int]:
        return [ANSWERS, LABELS] if self.beta else [ANSWERS]

    def sees_images(self) -> bool:
        """Say no: what is stored are the samples as they came."""
        return False
