"""From the shallowest block whose features moved: as much as the data differ from what came before."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from frostline.core.buffers import Buffer
from frostline.core.checks import in_range
from frostline.core.drift import compare, look, moved, retrain_from
from frostline.core.importance import probe
from frostline.core.rng import generator
from frostline.core.structure import block_modules, blocks, everything, head
from frostline.core.types import Task
from frostline.costs import TaskCosts
from frostline.selectors.base import Selector


@dataclass
class Drift(Selector):
    """Thaw the shallowest block whose output differs between this task's data and remembered ones, all deeper, and the head.

    The tests and the rule are those of `frostline drift`, core.drift.compare and retrain_from: where inputs changed that is
    the first block, where nothing but the meaning of labels did the head alone, which trains in any case. samples: looked at
    of the task, and remembered of those before it, evenly over all. alpha: of the chance to find a difference where there is
    none. at_least: how large it must be, from 0 to 1.
    """

    samples: int = 500
    alpha: float = 0.01
    at_least: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("selector.samples", self.samples, 20, whole=True)
        in_range("selector.alpha", self.alpha, 0, 0.5, above=True)
        in_range("selector.at_least", self.at_least, 0, 1)
        self.memory = Buffer(self.samples, "reservoir", self.seed)

    def __call__(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        """Return the choice, and remember some of the task's samples."""
        chosen = super().__call__(model, task, costs)
        for batch in probe(task, self.samples, generator(self.seed, "drift", task.index)):
            self.memory.add(batch)
        return chosen

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        if not len(self.memory):
            return everything(model)
        new = look(model, task, probe(task, self.samples, generator(self.seed, "drift", task.index)))
        old = look(model, task, _parts(self.memory))
        names = moved(compare(old, new, task), self.alpha, self.at_least)
        place = retrain_from(names, block_modules(model))
        return head(model) if place is None else head(model).union(*blocks(model)[place:])

    def state_dict(self) -> dict[str, Any]:
        return self.memory.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state)


def _parts(memory: Buffer, size: int = 128) -> list[Any]:
    whole = memory.all()
    return [whole.rows(part) for part in torch.arange(len(whole)).split(size)]
