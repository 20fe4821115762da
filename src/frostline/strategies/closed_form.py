"""Classifiers in closed form on features that stand still: what SLDA, NCM, RanPAC, FeCAM and ACIL have in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frostline.core.features import features
from frostline.core.scope import Scope, with_head
from frostline.core.types import Task, TaskStream
from frostline.strategies.base import needs_features
from frostline.strategies.frozen import Frozen


@dataclass
class ClosedForm(Frozen):
    """Train the first `warmup_tasks` as usual, 0 for a pretrained net; after them no weight moves, and a task costs one pass.

    Features are what the head is given. A subclass says what it learns from some of them, what it works out once a task is
    over, and what then takes the head's place. Where no sample of a class was seen, its logit is 0.
    """

    def learn(self, z: Tensor, y: Tensor, classes: int) -> None:
        """Take up features [B, D] of labels [B]."""
        raise NotImplementedError

    def solve(self) -> None:
        """Work out what answers from here on; a task is over."""

    def classifier(self) -> nn.Module | None:
        """Return what makes logits of features, None before there is something."""
        raise NotImplementedError

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_features(self.name, model, stream)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Pass over the task's data once and solve for the classifier."""
        model, classes = scope.model, scope.model.get_parameter("head.weight").shape[0]
        if task.index < self.warmup_tasks - 1:
            return  # the features will move again
        for z, batch in features(model, task.train):
            self.learn(z, batch.y, classes)
        with torch.no_grad():
            self.solve()

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Let the closed form answer, once there is one."""
        classifier = self.classifier()
        if classifier is None:
            yield
            return
        with with_head(model, classifier.eval()):
            yield


def one_hot(y: Tensor, classes: int, like: Tensor) -> Tensor:
    """Return labels [B] as rows [B, C] of zeros and a one."""
    return torch.zeros(len(y), classes, dtype=like.dtype, device=like.device).scatter_(1, y[:, None], 1.0)
