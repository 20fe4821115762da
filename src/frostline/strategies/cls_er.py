"""CLS-ER: two averages of the weights, a fast and a slow one, teach on what is replayed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range
from frostline.core.rng import generator
from frostline.core.scope import Scope, holding
from frostline.core.step import Step
from frostline.core.tensors import lerp_each
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies.base import Grads, needs_classes
from frostline.strategies.memory import Remembering


@dataclass
class CLSER(Remembering):
    """Replay, and add strength * |logits - teacher's|^2 on what is replayed; the slow average answers (Arani et al. 2022).

    arXiv 2201.12604. Each sample's teacher is the average that gives its class the higher probability. An average is brought
    up to date at a step with the probability of its rate, by its decay, at first at most 1 - 1/(t + 1). The memory is a
    reservoir over all batches. Running statistics are the latest. Stores samples and two copies of what has trained. Adds as
    many samples as came in, two evaluation-mode forward passes over them, and a pass over the weights now and then, to a
    step.
    """

    name: ClassVar[str] = "cls_er"
    keeps = ("memory", "fast", "slow", "taken")

    strength: float = 0.15
    fast_rate: float = 0.9
    slow_rate: float = 0.7
    decay: float = 0.999
    fast: dict[str, Tensor] = field(default_factory=dict, init=False)
    slow: dict[str, Tensor] = field(default_factory=dict, init=False)
    taken: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.cls_er.strength", self.strength, 0)
        for name in ("fast_rate", "slow_rate", "decay"):
            in_range(f"strategy.cls_er.{name}", getattr(self, name), 0, 1)

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        super().check(model, stream)
        needs_classes("cls_er", stream)

    def thawing(self, scope: Scope, task: Task) -> None:
        """Begin both averages with what the weights are where they train for the first time."""
        for name, p in scope.parameters.items():
            for average in (self.fast, self.slow):
                if name not in average:
                    average[name] = p.detach().clone()

    def augment(self, step: Step, batch: Batch) -> Batch:
        """Return the batch with samples from memory, marked in the column `cls_er`."""
        if not len(self.memory):
            return batch
        drawn = self.draw(step)
        return batch.cat(drawn.having(cls_er=torch.ones_like(drawn.y)))

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the distance from the teachers."""
        if "cls_er" not in batch.columns or not self.strength:
            return logits.new_zeros(())
        rows = batch.columns["cls_er"] == 1
        again = batch.rows(rows)
        fast, slow = (step.teacher(again, average) for average in (self.fast, self.slow))
        sure = [raw.softmax(1).gather(1, again.y[:, None]) for raw in (fast, slow)]
        teacher = torch.where(sure[1] > sure[0], slow, fast)
        return self.strength * (step.raw[rows] - teacher).square().mean()

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Offer what came in to the memory, and bring the averages up to date."""
        self.memory.add(step.incoming)
        self.taken += 1
        decay = min(1 - 1 / (self.taken + 1), self.decay)
        drawn = torch.rand(2, generator=generator(self.seed, "cls_er", self.taken)).tolist()
        names = list(step.scope.parameters)
        for average, rate, value in zip((self.fast, self.slow), (self.fast_rate, self.slow_rate), drawn, strict=True):
            if value < rate:
                now = [step.scope.parameters[name].detach() for name in names]
                lerp_each([average[name] for name in names], now, 1 - decay)

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Let the slow average answer."""
        with holding(model, self.slow):
            yield
