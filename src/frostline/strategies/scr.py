"""SCR: features learned by contrast, and the nearest class mean of the memory decides."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import in_range
from frostline.core.contrast import supervised_contrast
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies.base import Grads, needs_features
from frostline.strategies.memory import NearestExemplar, Remembering


@dataclass
class SCR(NearestExemplar, Remembering):
    """Draw samples of a class together and push all others apart, replayed ones among them (Mai et al. 2021, arXiv 2103.13885).

    The loss is the supervised contrastive one (Khosla et al. 2020) of what came in and of `batch_size` samples from memory, a
    reservoir over all batches. The nearest mean of the memory's features, of length 1, decides. The net's own head is the
    projection in which samples are compared, of as many dimensions as there are classes; the paper puts a small perceptron
    with 128 there. views: as in the paper, 2 has each sample twice, as a random image that is drawn anew where trainer.augment
    asks for such; 1 has it once. It owns the loss and the answer. Stores samples and a mean a class. Adds `batch_size` samples,
    and as many views, to a step.
    """

    name: ClassVar[str] = "scr"
    keeps = ("memory", "means")

    capacity: int = 1000
    batch_size: int | None = 100
    temperature: float = 0.07
    views: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.scr.temperature", self.temperature, 0, above=True)
        in_range("strategy.scr.views", self.views, 1, 2)
        self.means = torch.zeros(0, 0)

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_features("scr", model, stream)
        super().check(model, stream)

    def augment(self, step: Step, batch: Batch) -> Batch:
        """Return the batch with samples from memory, and all of it a second time."""
        batch = batch.cat(self.draw(step)) if len(self.memory) else batch
        return batch.cat(batch.having(again=torch.ones_like(batch.y))) if self.views == 2 else batch

    def criterion(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the contrastive loss of the whole batch."""
        same = batch.y[:, None] == batch.y
        everyone = torch.ones_like(batch.replayed)
        return supervised_contrast(F.normalize(step.raw), same, everyone[:, None] | same, everyone, self.temperature)

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Offer what came in to the memory."""
        self.memory.add(step.incoming)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Work out where each class's samples in memory are on average."""
        self.take_means(scope.model)

    def work(self, size: int) -> int:
        """Return how many rows are added to a batch of `size`."""
        drawn = min(len(self.memory), self.batch_size or size)
        return drawn if self.views == 1 else size + 2 * drawn

    def sees_images(self) -> bool:
        """Say no: the loss is about logits."""
        return False
