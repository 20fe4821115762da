"""The layers whose gradient is largest beside their weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from frostline.core.rng import generator
from frostline.core.structure import head, layers
from frostline.core.types import Task
from frostline.costs import TaskCosts
from frostline.selectors.base import Change
from frostline.selectors.scores import best_under_share, rgn
from frostline.selectors.under_share import UnderShare


@dataclass
class RelativeGradientNorm(UnderShare):
    """Take the layers with the largest ||g||_2 / ||theta||_2, batch-norm left out (Lee et al. 2023, arXiv 2210.11466).

    as_learning_rate: thaw all of those instead and scale each layer's learning rate by r / max r, which is the paper's
    Auto-RGN. That hardly saves anything: every gradient is still computed.
    """

    as_learning_rate: bool = False
    _rates: Mapping[str, float] = field(default_factory=dict, init=False)

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        scores = rgn(model, task, costs, self.samples, generator(self.seed, "rgn", task.index))
        if not self.as_learning_rate:
            return best_under_share(model, scores, head(model), self.fraction)
        top = max(scores.values())
        self._rates = {n: scores[layer] / top for layer in scores for n in layers(model)[layer]}
        return frozenset(self._rates)

    def change(self, model: nn.Module, task: Task, names: frozenset[str], step: int, steps: int) -> Change:
        return Change(names, self._rates)

    def state_dict(self) -> dict[str, Any]:
        return {"rates": dict(self._rates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rates = state["rates"]
