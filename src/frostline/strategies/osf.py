"""OSF: let a weight move only where it was weak."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from frostline.core.checks import in_range
from frostline.core.projection import projected_layers
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.structure import head, parameter_of
from frostline.core.types import Batch, Task
from frostline.strategies.base import Grads, Strategy


@dataclass
class OSF(Strategy):
    """Hold the strongest singular directions of each layer and move at right angles to them (Nayak et al. 2025).

    arXiv 2504.07097. When a task begins, W = U S V' of every linear layer and plain convolution is taken apart, and its first
    `share` of singular triples stay what they are: of each step, what has to do with them is taken back, whatever the
    optimizer. The authors, and PEFT, train the weaker U, S and V themselves, which reaches the same weights, and project
    their gradients, which Adam and momentum then leave the subspace with. The paper gives each layer a share of its own
    (.1 to .8, by how much its output resembles its input); here, as in PEFT, one holds for all. warmup_tasks are free, for
    nets that know nothing yet; 0 for a pretrained one. The head, biases, norms and embeddings are left alone. Adds four thin
    products a layer to a step. Stores while a task is learned a copy of the weights and
    their singular vectors.
    """

    keeps = ("origin", "left", "right")

    share: float = 0.5
    warmup_tasks: int = 1
    origin: dict[str, Tensor] = field(default_factory=dict, init=False)  # weights with which the task began
    left: dict[str, Tensor] = field(default_factory=dict, init=False)  # their singular vectors that are held [O, k]
    right: dict[str, Tensor] = field(default_factory=dict, init=False)  # [k, D]

    def __post_init__(self) -> None:
        in_range("strategy.osf.share", self.share, 0, 1)
        in_range("strategy.osf.warmup_tasks", self.warmup_tasks, 0)

    def thawing(self, scope: Scope, task: Task) -> None:
        """Copy what is about to move and is to be held."""
        if task.index < self.warmup_tasks:
            return
        names = {parameter_of(layer, "weight") for layer in projected_layers(scope.model)} - head(scope.model)
        fresh = {n: p.detach().clone() for n, p in scope.parameters.items() if n in names and n not in self.origin}
        self.origin = {**self.origin, **fresh}
        for name, weight in fresh.items():
            self.left[name], self.right[name] = strongest(weight.flatten(1), self.share)

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Take back what the step did to the strongest directions."""
        for name, origin in self.origin.items():
            if name in step.scope.parameters:
                p, u, v = step.scope.parameters[name].data, self.left[name], self.right[name]
                move = (p - origin).flatten(1)
                move = move - u @ (u.T @ move)
                move = move - (move @ v.T) @ v
                p.copy_(origin + move.view_as(p))

    def after_task(self, scope: Scope, task: Task) -> None:
        """Drop what the task was held to."""
        self.origin, self.left, self.right = {}, {}, {}

    def reads_samples(self) -> bool:
        """Say no: weights are all that it looks at."""
        return False


def strongest(weight: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return the first left [O, k] and right [k, D] singular vectors of a matrix, k being a share of the shorter side."""
    count = round(share * min(weight.shape))
    u, _, v = torch.linalg.svd(weight.float(), full_matrices=False)
    return u[:, :count].to(weight.dtype).contiguous(), v[:count].to(weight.dtype).contiguous()
