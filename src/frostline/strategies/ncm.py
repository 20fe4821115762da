"""Nearest class mean: the simplest classifier in closed form, and one that is hard to beat on good features."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import one_of
from frostline.core.heads import Normalised, linear
from frostline.strategies.closed_form import ClosedForm, one_hot


@dataclass
class NCM(ClosedForm):
    """Keep the mean of each class's features and answer with the nearest (Mensink et al. 2013; SimpleCIL: Zhou et al. 2023).

    SimpleCIL, arXiv 2303.07338, is this after one task of training, or none, with metric 'cosine'. metric: 'cosine', the
    angle to the mean; 'euclidean', the distance; 'icarl', the distance between features and means of features that were all
    normalised (Rebuffi et al. 2017). Stores C x D numbers.
    """

    name: ClassVar[str] = "ncm"
    keeps = ("counts", "sums")

    metric: str = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("strategy.ncm.metric", self.metric, METRICS)
        self.counts, self.sums = torch.zeros(0), torch.zeros(0, 0)

    def learn(self, z: Tensor, y: Tensor, classes: int) -> None:
        if not len(self.counts):
            self.counts, self.sums = z.new_zeros(classes), z.new_zeros(classes, z.shape[1])
        hot = one_hot(y, classes, z)
        self.counts = self.counts + hot.sum(0)
        self.sums = self.sums + hot.T @ (F.normalize(z) if self.metric == "icarl" else z)

    def classifier(self) -> nn.Module | None:
        if not len(self.counts):
            return None
        return nearest_mean(self.sums / self.counts.clamp(min=1)[:, None], self.metric)


METRICS = ("cosine", "euclidean", "icarl")


def nearest_mean(means: Tensor, metric: str) -> nn.Module:
    """Return what makes logits of features, the largest for the nearest of the means [C, D]: minus half a squared distance.

    A class that has no mean, all zeros, is on the other side of all features where only directions count.
    """
    if metric == "euclidean":
        return linear(means, -0.5 * means.square().sum(1))
    there = (means != 0).any(1)
    return Normalised(linear(F.normalize(means), torch.where(there, -0.5, -1.5)))
