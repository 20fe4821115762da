"""What the learning rate is multiplied by as steps go by."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from frostline.core.checks import in_range, one_of


@dataclass
class Schedule(ABC):
    """A factor of the learning rate at each step.

    per: 'task' begins anew with each task, 'run' stretches over all of them, an equal share each. warmup: steps at the
    beginning in which the factor rises in a straight line, before the rule itself begins; below 1 a share of all steps.
    """

    per: str = "task"
    warmup: float = 0

    def __post_init__(self) -> None:
        one_of("schedule.per", self.per, ("task", "run"))
        in_range("schedule.warmup", self.warmup, 0)

    def __call__(self, number: int, steps: int, task: int, tasks: int) -> float:
        """Return the factor at step `number` of `steps` in task `task` of `tasks`."""
        if self.per == "run":
            number, steps = task * steps + number, tasks * steps
        rising = min(steps, round(self.warmup * steps) if self.warmup < 1 else int(self.warmup))
        if number < rising:
            return (number + 1) / rising * self.at(0.0)
        return self.at((number - rising) / max(1, steps - rising))

    @property
    def constant(self) -> bool:
        """Whether the factor is always 1."""
        return False

    @abstractmethod
    def at(self, share: float) -> float:
        """Return the factor where `share` of the way is gone, from 0 to just below 1."""


@dataclass
class Constant(Schedule):
    """Leave the rate as it is."""

    @property
    def constant(self) -> bool:
        return not self.warmup

    def at(self, share: float) -> float:
        return 1.0


@dataclass
class Cosine(Schedule):
    """Fall along half a cosine to `floor` (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts)."""

    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("schedule.floor", self.floor, 0, 1)

    def at(self, share: float) -> float:
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass
class Linear(Schedule):
    """Fall in a straight line to `floor`."""

    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("schedule.floor", self.floor, 0, 1)

    def at(self, share: float) -> float:
        return 1 - (1 - self.floor) * share


@dataclass
class Step(Schedule):
    """Multiply by `factor` after each of `drops` equal shares of the way."""

    factor: float = 0.1
    drops: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("schedule.factor", self.factor, 0, 1, above=True)
        in_range("schedule.drops", self.drops, 1)

    def at(self, share: float) -> float:
        return self.factor ** math.floor(share * (self.drops + 1))


@dataclass
class OneCycle(Schedule):
    """Rise from 1 / start to 1 in the share `peak` of the way and fall to nearly 0, both along cosines (Smith & Topin 2018).

    arXiv 1708.07120; the defaults are those of torch.optim.lr_scheduler.OneCycleLR, momentum left alone.
    """

    peak: float = 0.3
    start: float = 25.0
    end: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("schedule.peak", self.peak, 0, 1, above=True)
        in_range("schedule.start", self.start, 1)
        in_range("schedule.end", self.end, 1)

    def at(self, share: float) -> float:
        low, last = 1 / self.start, 1 / (self.start * self.end)
        if share < self.peak:
            return _anneal(low, 1.0, share / self.peak)
        return _anneal(1.0, last, (share - self.peak) / max(1e-12, 1 - self.peak))


def _anneal(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * 0.5 * (1 + math.cos(math.pi * share))
