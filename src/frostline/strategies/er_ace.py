"""ER-ACE: new classes do not push the old ones away."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.objectives import means_apart
from frostline.core.step import Step
from frostline.core.types import Batch, TaskStream
from frostline.strategies.base import Strategy, needs_classes


@dataclass
class ERACE(Strategy):
    """Learn incoming samples among the classes of their own batch, replayed ones among all (Caccia et al. 2022).

    arXiv 2104.05025. The loss is the sum of both means. It owns the loss and stores nothing: replay is another strategy,
    strategy=[replay,er_ace].
    The authors' code also leaves classes that were never seen so far among those of the incoming samples, and masks nothing in
    the first task; here, as in the paper, only the batch's own classes count there.
    """

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_classes("er_ace", stream)

    def criterion(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the asymmetric cross-entropy."""
        replayed = batch.replayed
        came = (~replayed).to(logits.dtype)
        present = torch.zeros_like(logits[0]).scatter_reduce(0, batch.y, came, "amax") > 0
        among = torch.where(replayed[:, None] | present, logits, -torch.inf)
        each = F.cross_entropy(among, batch.y, reduction="none")
        return torch.stack(means_apart(each, replayed)).sum()

    def sees_images(self) -> bool:
        """Say no: the loss is about logits."""
        return False

    def reads_samples(self) -> bool:
        """Say no."""
        return False
