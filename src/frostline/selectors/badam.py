"""One block after another, in an order."""

from dataclasses import dataclass

import torch
from torch import nn

from frostline.core.checks import in_range, one_of
from frostline.core.rng import generator
from frostline.core.structure import blocks, head, parts
from frostline.core.types import Task
from frostline.selectors.turns import Turns

ORDERS = ("random", "ascending", "descending", "interleaved")


@dataclass
class BAdam(Turns):
    """Thaw one block for `interval` steps, then the next, until all had their turn, and again.

    Luo et al. 2024, arXiv 2404.02827. order: 'ascending' from the input, 'descending' from the output, 'random' another order
    in every round, 'interleaved' every `stride`-th block, then those beside them. with_head: the head trains all the time,
    which a classifier of new classes needs; false makes it the last block, as the authors' option for it does. What is in no
    block, embeddings and outer norms, stays frozen. The optimizer's state of a block that freezes again is dropped unless
    trainer.optimizer_state=keep.
    """

    order: str = "random"
    interval: int = 100
    stride: int = 2
    with_head: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("selector.order", self.order, ORDERS)
        in_range("selector.stride", self.stride, 1)

    def at(self, model: nn.Module, task: Task, number: int) -> frozenset[str]:
        groups = blocks(model) if self.with_head else parts(model)
        turn, place = divmod(number, len(groups))
        own = groups[self._order(len(groups), task, turn)[place]]
        return own | head(model) if self.with_head else own

    def _order(self, count: int, task: Task, turn: int) -> list[int]:
        if self.order == "random":
            return torch.randperm(count, generator=generator(self.seed, "badam", task.index, turn)).tolist()
        if self.order == "interleaved":
            return sorted(range(count), key=lambda place: (place % self.stride, place))
        return list(range(count)) if self.order == "ascending" else list(reversed(range(count)))
