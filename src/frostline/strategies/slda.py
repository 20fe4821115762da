"""Streaming linear discriminant analysis: a classifier in closed form on features that stand still."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range, one_of
from frostline.core.heads import linear
from frostline.strategies.closed_form import ClosedForm


@dataclass
class SLDA(ClosedForm):
    """Keep a mean for each class and one covariance of the features; classify by them (Hayes & Kanan 2020, arXiv 1909.01520).

    covariance: 'streaming', the paper's running estimate, in which a sample's deviation is taken from its class's mean so far;
    'pooled', around the final means, which is that of linear discriminant analysis on all data at once. shrinkage:
    (1 - shrinkage) S + shrinkage I is inverted. Stores C x D + D x D numbers.
    """

    name: ClassVar[str] = "slda"
    keeps = ("counts", "means", "scatter", "seen", "weight", "bias")

    covariance: str = "streaming"
    shrinkage: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.slda.shrinkage", self.shrinkage, 0, 1, above=True)
        one_of("strategy.slda.covariance", self.covariance, ("streaming", "pooled"))
        self.counts, self.means, self.scatter = torch.zeros(0), torch.zeros(0, 0), torch.zeros(0, 0)
        self.weight, self.bias = torch.zeros(0, 0), torch.zeros(0)
        self.seen = 0

    def learn(self, z: Tensor, y: Tensor, classes: int) -> None:
        if not len(self.counts):
            self.counts, self.means = z.new_zeros(classes), z.new_zeros(classes, z.shape[1])
            self.scatter = z.new_zeros(z.shape[1], z.shape[1])
        order = y.argsort(stable=True)
        z_sorted, y_sorted = z.index_select(0, order), y.index_select(0, order)
        came = torch.zeros_like(self.counts).index_add(0, y, torch.ones_like(z[:, 0]))
        first = (came.cumsum(0) - came)[y_sorted].long()  # where each sample's class begins
        place = torch.arange(len(y), device=y.device) - first
        sums = z_sorted.T.contiguous().cumsum(1).T  # along the rows it is four times as fast
        before = torch.cat([torch.zeros_like(z[:1]), sums])  # sums of all samples before each
        own = before[:-1] - before.index_select(0, first)  # sums of those of its class
        count = self.counts[y_sorted] + place
        known = (self.means * self.counts[:, None]).index_select(0, y_sorted)
        deviation = z_sorted - (known + own) / count.clamp(min=1)[:, None]
        number = (count if self.covariance == "pooled" else self.seen + order).to(z.dtype)
        self.scatter = self.scatter + deviation.T @ (deviation * (number / (number + 1))[:, None])
        sums = torch.zeros_like(self.means).index_add(0, y, z)
        total = self.counts + came
        self.means = torch.where(
            total[:, None] > 0, (self.means * self.counts[:, None] + sums) / total.clamp(min=1)[:, None], self.means
        )
        self.counts, self.seen = total, self.seen + len(y)

    def solve(self) -> None:
        kept = self.scatter / max(1, self.seen)
        eye = torch.eye(len(kept), device=kept.device)
        self.weight = torch.linalg.solve((1 - self.shrinkage) * kept + self.shrinkage * eye, self.means.T).T
        self.bias = -0.5 * (self.means * self.weight).sum(1)

    def classifier(self) -> nn.Module | None:
        return linear(self.weight, self.bias) if len(self.weight) else None
