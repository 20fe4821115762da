"""Layers that anneal to a stop one after another, the first ones first."""

import math
from dataclasses import dataclass

from torch import nn

from frostline.core.checks import in_range
from frostline.core.structure import parts
from frostline.core.types import Task
from frostline.selectors.base import Change, Selector


@dataclass
class FreezeOut(Selector):
    """Anneal block i's learning rate to 0 at the share t_i of the task by a cosine, then freeze it.

    Brock et al. 2017 (arXiv 1706.04983): t_i = (t0 + (1 - t0) i / L)^3 for i = 0 to L, where L is the head; with
    `cubic` false without the power. scaled: start block i at lr / t_i, so that every block travels as far.
    """

    t0: float = 0.8
    cubic: bool = True
    scaled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("selector.t0", self.t0, 0, 1, above=True)

    def change(self, model: nn.Module, task: Task, names: frozenset[str], step: int, steps: int) -> Change:
        groups, now, rates = parts(model), step / max(1, steps), {}
        for end, group in zip(self._ends(len(groups)), groups, strict=True):
            if now < end:
                rate = 0.5 * (1 + math.cos(math.pi * now / end)) / (end if self.scaled else 1.0)
                rates |= dict.fromkeys(group, rate)
        return Change(frozenset(rates), rates, step + 1)

    def _ends(self, count: int) -> list[float]:
        power = 3 if self.cubic else 1
        return [(self.t0 + (1 - self.t0) * i / max(1, count - 1)) ** power for i in range(count - 1)] + [1.0]
