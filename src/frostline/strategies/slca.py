"""SLCA: a slow backbone, and a head that is aligned with what the classes' features were."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import in_range
from frostline.core.features import features
from frostline.core.moments import ClassMoments
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.structure import head
from frostline.core.tensors import flags
from frostline.core.types import Task, TaskStream
from frostline.costs.memory import needs_room
from frostline.strategies.base import Strategy, needs_features


@dataclass
class SLCA(Strategy):
    """Learn all but the head at `slow` times the rate, and train the head on drawn features of all classes (Zhang et al. 2023).

    arXiv 2303.05118. When a task ends, each of its classes leaves the mean and the covariance of its features, and the head
    is trained for `epochs` on `samples` features a class, drawn from normal distributions of these moments, by SGD with
    momentum 0.9 at a rate that falls from `rate` to 0 along a cosine; logits are divided by `norm` times their length. The
    paper divides each task's logits by their own length; here all seen ones' together. Where the head does not train, it is
    not aligned. Stores D x D numbers a class.
    """

    name: ClassVar[str] = "slca"
    keeps = ("moments", "known")

    slow: float = 0.01
    samples: int = 256
    epochs: int = 5
    rate: float = 0.01
    norm: float = 0.1
    seed: int = 0
    known: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        in_range("strategy.slca.slow", self.slow, 0, 1)
        in_range("strategy.slca.samples", self.samples, 1)
        in_range("strategy.slca.epochs", self.epochs, 1)
        in_range("strategy.slca.rate", self.rate, 0, above=True)
        in_range("strategy.slca.norm", self.norm, 0, above=True)
        self.moments = ClassMoments()
        self._slowly: dict[str, float] = {}

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_features("slca", model, stream)
        classes, width = model.get_parameter("head.weight").shape
        needs_room(
            f"strategy=slca: the covariances of {classes} classes of {width} features", 8 * classes * width**2,
            next(model.parameters()).device, "fewer features, or ncm",
        )  # fmt: skip

    def thawing(self, scope: Scope, task: Task) -> None:
        """Note what is to learn slowly."""
        self._slowly = {name: 1.0 if name in head(scope.model) else self.slow for name in scope.names}

    def rates(self, number: int, steps: int) -> float | Mapping[str, float]:
        """Return each parameter's share of the learning rate."""
        return self._slowly

    def after_task(self, scope: Scope, task: Task) -> None:
        """Take up the moments of the task's classes and align the head with all that was seen."""
        weight = scope.model.get_parameter("head.weight")
        for z, batch in features(scope.model, task.train):
            self.moments.add(z.float(), batch.y, len(weight))
        self.known = sorted({*self.known, *task.train.labels.unique().tolist()})
        trained = [p for name, p in scope.parameters.items() if name in head(scope.model)]
        if not trained:
            return
        z, y = self._drawn(weight.device, task.index)
        unseen = ~flags(self.known, weight)
        optimizer = torch.optim.SGD(trained, self.rate, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        with torch.enable_grad():
            for epoch in range(self.epochs):
                rng = generator(self.seed, "slca order", task.index, epoch)
                for rows in torch.randperm(len(y), generator=rng).to(weight.device).split(128):
                    logits = scope.model.get_submodule("head")(z[rows])
                    length = logits.masked_fill(unseen, 0.0).norm(dim=1, keepdim=True) + 1e-7
                    loss = F.cross_entropy((logits / (self.norm * length)).masked_fill(unseen, -torch.inf), y[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                schedule.step()

    def _drawn(self, device: torch.device, index: int) -> tuple[Tensor, Tensor]:
        """Return features [N, D] drawn for each class that was seen, and their labels [N]."""
        rng, found = generator(self.seed, "slca", index), []
        for label in self.known:
            scatter = self.moments.scatters[label] / (self.moments.counts[label] - 1).clamp(min=1)
            eye = torch.eye(len(scatter), device=device)
            root = torch.linalg.cholesky(scatter.double() + 1e-4 * eye.double()).float()
            noise = torch.randn(self.samples, len(scatter), generator=rng).to(device)
            found.append(self.moments.means[label] + noise @ root.T)
        return torch.cat(found), torch.tensor(self.known, device=device).repeat_interleave(self.samples)

    def reads_samples(self) -> bool:
        """Say no."""
        return False
