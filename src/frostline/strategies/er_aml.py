"""ER-AML: incoming samples are told from each other, not from all that was ever learned."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import in_range
from frostline.core.contrast import supervised_contrast
from frostline.core.features import Overheard
from frostline.core.step import Step
from frostline.core.types import Batch, TaskStream
from frostline.strategies.base import Strategy, needs_features


@dataclass
class ERAML(Strategy):
    """Learn incoming samples by a contrastive loss among themselves, replayed ones by cross-entropy (Caccia et al. 2022).

    arXiv 2104.05025. An incoming sample is drawn to those of its class, incoming or replayed, and pushed away from incoming
    ones of others: old classes' features are not moved by it. Features are what the head is given, of length 1. Incoming
    samples do not teach the head by themselves; chained with a memory that takes them as they come, replay does:
    strategy=[replay,er_aml] strategy.replay.update=step. Until there is a memory they are learned by cross-entropy. The loss is
    the sum of both means. It owns the loss and stores nothing. Adds a product of the features with themselves to a step.
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        in_range("strategy.er_aml.temperature", self.temperature, 0, above=True)
        self.overheard = Overheard()

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_features("er_aml", model, stream)

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Listen to the features."""
        with self.overheard.at(model):
            yield

    def criterion(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the sum of both losses."""
        replayed = batch.replayed
        if "replayed" not in batch.columns:
            return step.loss(logits, batch.y)
        same = batch.y[:, None] == batch.y
        z = F.normalize(self.overheard.learned)
        apart = supervised_contrast(z, same, same | ~replayed, ~replayed, self.temperature)
        return apart + step.loss(logits[replayed], batch.y[replayed])

    def reads_samples(self) -> bool:
        """Say no: the loss is about features."""
        return False

    def sees_images(self) -> bool:
        """Say no."""
        return False
