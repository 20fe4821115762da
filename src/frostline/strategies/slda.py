"""Streaming linear discriminant analysis: a classifier in closed form on features that stand still."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.scope import Scope, evaluating, with_head
from frostline.core.types import Task, TaskStream
from frostline.strategies.base import Strategy


@dataclass
class SLDA(Strategy):
    """Keep a mean for each class and one covariance of the features; classify by them (Hayes & Kanan 2020, arXiv 1909.01520).

    The first `warmup_tasks` train the net as usual, 0 for a pretrained one; after them no weight moves, and a task costs one
    forward pass over its data. Features are what the head is given. covariance: 'streaming', the paper's running estimate,
    in which a sample's deviation is taken from its class's mean so far; 'pooled', around the final means, which is that of
    linear discriminant analysis on all data at once. shrinkage: (1 - shrinkage) S + shrinkage I is inverted. Where no sample
    of a class was seen, its logit is 0. Stores C x D + D x D numbers.
    """

    keeps = ("counts", "means", "scatter", "seen", "weight", "bias")

    warmup_tasks: int = 1
    covariance: str = "streaming"
    shrinkage: float = 1e-4

    def __post_init__(self) -> None:
        in_range("strategy.slda.warmup_tasks", self.warmup_tasks, 0)
        in_range("strategy.slda.shrinkage", self.shrinkage, 0, 1, above=True)
        one_of("strategy.slda.covariance", self.covariance, ("streaming", "pooled"))
        self.counts, self.means, self.scatter = torch.zeros(0), torch.zeros(0, 0), torch.zeros(0, 0)
        self.weight, self.bias = torch.zeros(0, 0), torch.zeros(0)
        self.seen = 0

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        if not isinstance(getattr(model, "head", None), nn.Linear):
            raise UsageError(
                f"strategy=slda: {type(model).__name__} has no linear layer called `head` whose input could be classified. "
                "Expected one: in a net of your own, self.head = nn.Linear(...)."
            )

    def parts(self, task: Task) -> Sequence[Task]:
        """Return no training once the features stand still."""
        return [task if task.index < self.warmup_tasks else replace(task, epochs=0)]

    def after_task(self, scope: Scope, task: Task) -> None:
        """Pass over the task's data once and solve for the classifier."""
        model, classes = scope.model, scope.model.get_parameter("head.weight").shape[0]
        if task.index < self.warmup_tasks - 1:
            return  # the features will move again
        with torch.no_grad(), evaluating(model), with_head(model, nn.Identity()):
            for batch in task.train.batches(256):
                self._add(model(batch.x), batch.y, classes)
        kept = self.scatter / max(1, self.seen)
        eye = torch.eye(len(kept), device=kept.device)
        self.weight = torch.linalg.solve((1 - self.shrinkage) * kept + self.shrinkage * eye, self.means.T).T
        self.bias = -0.5 * (self.means * self.weight).sum(1)

    def _add(self, z: Tensor, y: Tensor, classes: int) -> None:
        if not len(self.counts):
            self.counts, self.means = z.new_zeros(classes), z.new_zeros(classes, z.shape[1])
            self.scatter = z.new_zeros(z.shape[1], z.shape[1])
        order = y.argsort(stable=True)
        back = order.argsort()
        z_sorted, y_sorted = z[order], y[order]
        came = torch.zeros_like(self.counts).index_add(0, y, torch.ones_like(z[:, 0]))
        first = (came.cumsum(0) - came)[y_sorted].long()  # where each sample's class begins
        place = torch.arange(len(y), device=y.device) - first
        before = torch.cat([torch.zeros_like(z[:1]), z_sorted.cumsum(0)])  # sums of all samples before each
        own = before[:-1] - before[first]  # sums of those of its class
        count = self.counts[y_sorted] + place
        running = (self.means[y_sorted] * self.counts[y_sorted, None] + own) / count.clamp(min=1)[:, None]
        deviation = (z_sorted - running)[back]
        number = (count[back] if self.covariance == "pooled" else self.seen + torch.arange(len(y), device=y.device)).to(
            z.dtype
        )
        self.scatter = self.scatter + deviation.T @ (deviation * (number / (number + 1))[:, None])
        sums = torch.zeros_like(self.means).index_add(0, y, z)
        total = self.counts + came
        self.means = torch.where(
            total[:, None] > 0, (self.means * self.counts[:, None] + sums) / total.clamp(min=1)[:, None], self.means
        )
        self.counts, self.seen = total, self.seen + len(y)

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Let the closed form answer, once there is one."""
        if not len(self.weight):
            yield
            return
        linear = nn.Linear(self.weight.shape[1], self.weight.shape[0], device=self.weight.device)
        linear.weight.data, linear.bias.data = self.weight, self.bias
        with with_head(model, linear):
            yield
