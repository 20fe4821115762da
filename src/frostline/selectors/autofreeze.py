"""A frozen prefix that grows as blocks settle."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range
from frostline.core.structure import blocks, everything
from frostline.core.types import Task
from frostline.selectors.base import Change, Selector


@dataclass
class AutoFreeze(Selector):
    """Freeze the first blocks while the norm of their accumulated gradient changes less than the median block's.

    Liu et al. 2021 (arXiv 2102.01386): `intervals` times a task, eta_l = |N_l(before) - N_l| / N_l(before), where N_l is the
    norm of the sum of block l's gradients over the interval; the frozen prefix advances to the first active block at or
    above the median of eta. The head never freezes. Where the median is 0 nothing freezes: no block changes less.
    """

    intervals: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("selector.intervals", self.intervals, 2)
        self._sums: dict[str, Tensor] = {}
        self._norms: list[float] = []
        self._frozen = 0

    def observe(self, grads: Mapping[str, Tensor]) -> None:
        """Add the step's gradients up."""
        for name, g in grads.items():
            if name in self._sums:
                self._sums[name] += g
            else:
                self._sums[name] = g.clone()

    def change(self, model: nn.Module, task: Task, names: frozenset[str], step: int, steps: int) -> Change:
        groups = blocks(model)
        if step == 0:
            self._norms, self._frozen = [], 0
        else:
            self._advance(groups)
        self._sums = {}
        until = min(steps, step + max(1, steps // self.intervals))
        return Change(everything(model).difference(*groups[: self._frozen]), until=until)

    def _advance(self, groups: list[frozenset[str]]) -> None:
        active = groups[self._frozen :]
        if not active:
            return
        totals = [
            sum(((self._sums[n] ** 2).sum() for n in group if n in self._sums), torch.zeros(())) for group in active
        ]
        norms = torch.stack([t.cpu() for t in totals]).sqrt().tolist()
        before, self._norms = self._norms[-len(active) :], norms
        if before:
            eta = [abs(old - new) / old if old else 0.0 for old, new in zip(before, norms, strict=True)]
            middle = median(eta)
            self._frozen += next((i for i, e in enumerate(eta) if e >= middle), 0)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self._sums), "norms": list(self._norms), "frozen": self._frozen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums, self._norms, self._frozen = dict(state["sums"]), list(state["norms"]), state["frozen"]
