"""Orthogonal gradient descent: steps at right angles to what moves old answers."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range
from frostline.core.examples import example_gradients
from frostline.core.importance import probe
from frostline.core.projection import flat, orthonormal, unflat
from frostline.core.rng import generator
from frostline.core.scope import Scope, evaluating
from frostline.core.step import Step
from frostline.core.types import Batch, Task, TaskStream
from frostline.costs.memory import needs_room
from frostline.strategies.base import Grads, Strategy, needs_classes


@dataclass
class OGD(Strategy):
    """Take out of the gradient what lies in the span of old samples' own (Farajtabar et al. 2020, arXiv 1910.07104).

    After a task the gradients of the right class's logit (the paper's OGD-GTL) of `samples` samples are kept, over all
    weights; they are made orthonormal over those that train. Adds two products of all that is kept with the gradient to a
    step. Stores samples x P numbers a task: for small nets.
    """

    keeps = ("directions",)

    samples: int = 200
    seed: int = 0
    directions: dict[str, Tensor] = field(default_factory=dict, init=False)  # by parameter, [K, ...]

    def __post_init__(self) -> None:
        in_range("strategy.ogd.samples", self.samples, 1)
        self._basis: tuple[list[str], Tensor] | None = None

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_classes("ogd", stream, several=True)
        size = 4 * self.samples * len(stream) * sum(p.numel() for p in model.parameters())
        needs_room(
            f"strategy.ogd.samples={self.samples}: a gradient of the whole net for each, in {len(stream)} tasks,", 2 * size,
            next(model.parameters()).device, "fewer, a smaller net, or strategy=gpm",
        )  # fmt: skip

    def thawing(self, scope: Scope, task: Task) -> None:
        """Make what is kept orthonormal over what trains."""
        self._basis = None
        if self.directions:
            names = list(scope.parameters)
            self._basis = (names, orthonormal(torch.cat([self.directions[n].flatten(1) for n in names], 1)))

    def project(self, step: Step, batch: Batch, grads: Grads) -> Grads:
        """Return the gradient at right angles to what is kept."""
        if self._basis is None:
            return grads
        names, basis = self._basis
        like = {name: step.scope.parameters[name] for name in names}
        vector = flat(grads, like)
        return unflat(vector - (vector @ basis.T) @ basis, like)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Keep some samples' gradients."""
        rng = generator(self.seed, "ogd", task.index)
        with evaluating(scope.model):
            for batch in probe(task, self.samples, rng, 32):  # not all at once: each gradient is a copy of the net
                for name, g in example_gradients(scope.model, right_logit, batch.x, batch.y).items():
                    kept = self.directions.get(name)
                    self.directions[name] = g if kept is None else torch.cat([kept, g])

    def recalls(self) -> bool:
        """Return whether it holds on to earlier tasks and does nothing else: it does."""
        return True

    def reads_samples(self) -> bool:
        """Say no: gradients are all that it looks at."""
        return False


def right_logit(raw: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Return each sample's logit of its own class."""
    return raw.gather(-1, y[..., None]).flatten(1).sum(1)
