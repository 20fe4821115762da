"""Other random blocks every few steps."""

from dataclasses import dataclass

import torch
from torch import nn

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.rng import generator
from frostline.core.structure import blocks, head
from frostline.core.types import Task
from frostline.costs import TaskCosts
from frostline.selectors.roles import names_of_role
from frostline.selectors.turns import Turns


@dataclass
class LISA(Turns):
    """Thaw `k` random blocks for `interval` steps, then others; embeddings, norms and head train all the time.

    Pan et al. 2024 (arXiv 2403.17919). norms: 'all' thaws every norm, as the rule is usually told; 'outside' only those outside
    the blocks, as the authors' code does. with_embeddings, with_head: false leaves them frozen: at eight billion weights they
    are 70 % of what trains. The optimizer's state of a block that freezes again is dropped unless trainer.optimizer_state=keep,
    otherwise no memory is saved.
    """

    k: int = 1
    interval: int = 20
    norms: str = "all"
    with_embeddings: bool = True
    with_head: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("selector.k", self.k, 1)
        one_of("selector.norms", self.norms, ("all", "outside"))

    def check(self, model: nn.Module, costs: TaskCosts) -> None:
        count = len(self._blocks(model))
        if self.k > count:
            raise UsageError(
                f"selector.k={self.k}: the model has {count} blocks to draw. The nearest valid value is {count}."
            )

    def at(self, model: nn.Module, task: Task, number: int) -> frozenset[str]:
        groups = self._blocks(model)
        rng = generator(self.seed, "lisa", task.index, number)
        drawn = torch.randperm(len(groups), generator=rng)[: self.k].tolist()
        return self._always(model).union(*(groups[i] for i in drawn))

    def _blocks(self, model: nn.Module) -> list[frozenset[str]]:
        always = self._always(model) | head(model) | names_of_role(model, "embeddings")
        return [rest for block in blocks(model) if (rest := block - always)]

    def _always(self, model: nn.Module) -> frozenset[str]:
        norms = names_of_role(model, "norms")
        if self.norms == "outside":
            norms = norms.difference(*blocks(model))
        found = norms | names_of_role(model, "embeddings") if self.with_embeddings else norms
        return found | head(model) if self.with_head else found - head(model)
