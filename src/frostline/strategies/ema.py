"""An average of the weights along the way answers, not the latest ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from frostline.core.checks import in_range
from frostline.core.scope import Scope, holding
from frostline.core.step import Step
from frostline.core.tensors import lerp_each
from frostline.core.types import Batch, Task
from frostline.strategies.base import Grads, Strategy


@dataclass
class EMA(Strategy):
    """Serve mean <- decay * mean + (1 - decay) * theta, brought up to date at each step (Polyak & Juditsky 1992).

    In the first steps the decay is at most (1 + t) / (10 + t), so that the start is soon left behind. Running statistics are
    the latest. Adds a pass over the weights to a step. Stores a copy of what has trained.
    """

    keeps = ("mean", "taken")

    decay: float = 0.999
    mean: dict[str, Tensor] = field(default_factory=dict, init=False)
    taken: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        in_range("strategy.ema.decay", self.decay, 0, 1)

    def thawing(self, scope: Scope, task: Task) -> None:
        """Begin with what the weights are where they train for the first time."""
        for name, p in scope.parameters.items():
            if name not in self.mean:
                self.mean[name] = p.detach().clone()

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Bring the mean up to date."""
        self.taken += 1
        share = 1 - min(self.decay, (1 + self.taken) / (10 + self.taken))
        names = list(step.scope.parameters)
        lerp_each([self.mean[name] for name in names], [step.scope.parameters[name].detach() for name in names], share)

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Let the mean answer."""
        with holding(model, self.mean):
            yield
