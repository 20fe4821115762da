"""CODA-Prompt: every prompt is a sum of components, weighted by how near each is to the sample."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import in_range
from frostline.core.prompting import Tokens
from frostline.core.rng import generator
from frostline.core.step import Step
from frostline.core.types import Batch
from frostline.strategies.prompted import Prompted


@dataclass
class CODAPrompt(Prompted):
    """Sum components by the cosine of (query x attention) and key; each task adds its own.

    Smith et al. 2023, arXiv 2211.13218. Components of earlier tasks stay in the sum and do not move. orthogonality: the weight
    of |M M^T - I|^2, the mean over entries, for the task's components, keys and attentions beside the earlier ones. Prompts are
    tokens behind those of their block, taken away after it; the paper puts them among keys and values alone. blocks: numbers
    from 0; those that the net has not are left out. It owns the loss and the answer. Stores the components. Adds a forward pass
    without prompts, and `length` tokens a block, to a step.
    """

    name: ClassVar[str] = "coda_prompt"

    components: int = 10
    length: int = 8
    blocks: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    orthogonality: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("components", "length"):
            in_range(f"strategy.coda_prompt.{name}", getattr(self, name), 1)
        in_range("strategy.coda_prompt.orthogonality", self.orthogonality, 0)
        self.apart = torch.zeros(())

    def create(self, prompts: nn.ParameterDict, width: int, blocks: int, index: int) -> None:
        for block in (b for b in self.blocks if b < blocks):
            if f"keys{block}_{index}" not in prompts:
                for kind, shape in (("keys", ()), ("attention", ()), ("parts", (self.length,))):
                    key = f"{kind}{block}_{index}"
                    fresh, rng = torch.empty(self.components, *shape, width), generator(self.seed, self.name, key)
                    nn.init.orthogonal_(fresh.view(self.components, -1), generator=rng)
                    prompts[key] = nn.Parameter(fresh)

    def tokens(self, prompts: nn.ParameterDict, query: Tensor) -> Tokens:
        last = self.learned - 1 if self.task_now is None else self.task_now
        found, apart = {}, []
        for block in (b for b in self.blocks if f"keys{b}_0" in prompts):
            keys, attention, parts = (
                torch.cat([prompts[f"{kind}{block}_{task}"] for task in range(last + 1)])
                for kind in ("keys", "attention", "parts")
            )
            weights = F.cosine_similarity(query[:, None] * attention, keys, dim=2)  # [B, M]
            found[block] = (weights @ parts.flatten(1)).unflatten(1, parts.shape[1:])
            if self.task_now is not None and self.orthogonality:
                apart += [_beside(matrix.flatten(1)) for matrix in (keys, attention, parts)]
        self.apart = torch.stack(apart).sum() if apart else query.new_zeros(())
        return found

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return what keeps the components apart."""
        return self.orthogonality * self.apart


def _beside(matrix: Tensor) -> Tensor:
    """Return the mean square of M M^T - I."""
    return (matrix @ matrix.T - torch.eye(len(matrix), device=matrix.device)).square().mean()
