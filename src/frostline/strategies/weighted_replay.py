"""How much replayed samples count beside those that come in."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import UsageError, in_range
from frostline.core.objectives import means_apart
from frostline.core.step import Step
from frostline.core.types import Batch, TaskStream
from frostline.strategies.base import Strategy, needs_classes


@dataclass
class WeightedReplay(Strategy):
    """Give the replayed samples a share of the loss, however many they are (van de Ven & Tolias 2019).

    arXiv 1904.07734. share: of the loss, between 0 and 1; or 'tasks': what the tasks before are among all so far, (t - 1) / t
    in task t, so that each task counts alike. Klasson et al. 2023 give .5. Each part is the mean over its own samples; without
    this a sample counts like any other. It owns the loss and stores nothing: replay is another strategy,
    strategy=[replay,weighted_replay].
    """

    share: float | str = "tasks"

    def __post_init__(self) -> None:
        if isinstance(self.share, str):
            if self.share != "tasks":
                raise UsageError(
                    f"strategy.weighted_replay.share={self.share}: expected a number from 0 to 1, or tasks."
                )
        else:
            in_range("strategy.weighted_replay.share", self.share, 0, 1)

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_classes("weighted_replay", stream)

    def criterion(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the two means, weighted; in a batch without replayed samples the others have the whole."""
        each = F.cross_entropy(logits, batch.y, reduction="none")
        share = step.task.index / (step.task.index + 1) if isinstance(self.share, str) else self.share
        share = share * batch.replayed.any()  # 0 where none is replayed
        came, old = means_apart(each, batch.replayed)
        return (1 - share) * came + share * old

    def sees_images(self) -> bool:
        """Say no: the loss is about logits."""
        return False

    def reads_samples(self) -> bool:
        """Say no."""
        return False
