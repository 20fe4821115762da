"""Gradient projection memory: learn in directions that old inputs do not use."""

from dataclasses import dataclass

import torch
from torch import Tensor

from frostline.core.checks import in_range
from frostline.core.importance import probe
from frostline.core.projection import layer_inputs
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.types import Task
from frostline.strategies.subspaces import Subspaces

MOST = 4096  # inputs of a layer of which a basis is made: a convolution has thousands of patches an image


@dataclass
class GPM(Subspaces):
    """Keep, for each layer, the directions that its inputs use, and step at right angles to them (Saha et al. 2021).

    arXiv 2103.09762. After a task, what the inputs of `samples` samples have outside the directions so far is taken apart
    (SVD), and as many new ones are kept as make up `threshold` of all of it, which grows by `growth` a task. At a threshold
    of 1 what the net says of these inputs does not change at all. Here a bias is a part of its layer; the paper's nets have
    none. Adds a product a layer to a step. Stores D x k numbers a layer.
    """

    threshold: float = 0.95
    growth: float = 0.003
    samples: int = 125
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.gpm.threshold", self.threshold, 0, 1, above=True)
        in_range("strategy.gpm.growth", self.growth, 0)
        in_range("strategy.gpm.samples", self.samples, 1)

    def projection(self, kept: Tensor) -> Tensor:
        """Return I - B B', to what is at right angles to a basis B [D, k]."""
        return torch.eye(len(kept), device=kept.device, dtype=kept.dtype) - kept @ kept.T

    def after_task(self, scope: Scope, task: Task) -> None:
        """Add the directions that this task's inputs use."""
        rng = generator(self.seed, "gpm", task.index)
        threshold = min(1.0, self.threshold + self.growth * task.index)
        (inputs,) = layer_inputs(scope.model, probe(task, self.samples, rng, self.samples))
        for name, x in inputs.items():
            x = x[torch.randperm(len(x), generator=rng)[:MOST].to(x.device)]
            self.kept[name] = grown(self.kept.get(name, x.new_zeros(x.shape[1], 0)), x, threshold)
        self.restored()


def grown(basis: Tensor, x: Tensor, threshold: float) -> Tensor:
    """Return the basis [D, k] with the directions of x [N, D] beside it that make up `threshold` of |x|^2 together."""
    rest = x - (x @ basis) @ basis.T
    whole = x.square().sum()
    _, s, v = torch.linalg.svd(rest, full_matrices=False)
    have = whole - rest.square().sum() + torch.cat([s.new_zeros(1), s.square()]).cumsum(0)
    count = int((have < threshold * whole * (1 - 1e-6)).sum())
    count = min(count, int((s > 1e-5 * whole.sqrt()).sum()), len(basis) - basis.shape[1])
    return torch.linalg.qr(torch.cat([basis, v[:count].T], 1))[0] if count else basis
