"""L2P: a pool of prompts, of which each sample chooses some."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import UsageError, in_range
from frostline.core.prompting import Tokens
from frostline.core.step import Step
from frostline.core.types import Batch
from frostline.strategies.prompted import Prompted


@dataclass
class L2P(Prompted):
    """Put the `chosen` prompts of a pool before the first block whose keys are nearest to the sample (Wang et al. 2022).

    arXiv 2112.08654. The loss is less pull * the mean cosine of a sample and the keys that it chose. `length` tokens a prompt.
    Its head reads the mean of the prompts' outputs; here it reads what the net's own reads, the mean of all tokens or the class
    token, and prompts stand behind the others. The authors' code chooses the same prompts for a whole batch, here each sample
    chooses. It owns the loss and the answer. Stores the pool. Adds a forward pass without prompts, and chosen x length tokens,
    to a step.
    """

    name: ClassVar[str] = "l2p"
    stay = True

    pool: int = 10
    length: int = 5
    chosen: int = 5
    pull: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pool", "length", "chosen"):
            in_range(f"strategy.l2p.{name}", getattr(self, name), 1)
        in_range("strategy.l2p.pull", self.pull, 0)
        if self.chosen > self.pool:
            raise UsageError(
                f"strategy.l2p.chosen={self.chosen} of strategy.l2p.pool={self.pool} prompts. The nearest valid value is "
                f"{self.pool}."
            )
        self.near = torch.zeros(0)

    def create(self, prompts: nn.ParameterDict, width: int, blocks: int, index: int) -> None:
        if "pool" not in prompts:
            prompts["pool"] = self.drawn("pool", self.pool, self.length, width)
            prompts["pool_keys"] = self.drawn("keys", self.pool, width)

    def tokens(self, prompts: nn.ParameterDict, query: Tensor) -> Tokens:
        cosines = F.normalize(query) @ F.normalize(prompts["pool_keys"]).T
        self.near, which = cosines.topk(self.chosen, dim=1)
        return {0: prompts["pool"][which].flatten(1, 2)}

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the pull of the keys to the samples."""
        return -self.pull * self.near.mean()
