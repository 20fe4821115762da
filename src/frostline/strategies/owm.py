"""Orthogonal weights modification: a projector for each layer that fades what old inputs use."""

from dataclasses import dataclass

import torch
from torch import Tensor

from frostline.core.checks import in_range, one_of
from frostline.core.projection import layer_inputs
from frostline.core.scope import Scope
from frostline.core.types import Task
from frostline.strategies.subspaces import Subspaces


@dataclass
class OWM(Subspaces):
    """Multiply each layer's gradient by P = I - X' (X X' + alpha I)^-1 X of all its inputs X so far (Zeng et al. 2019).

    arXiv 1810.01256. That is alpha (X' X + alpha I)^-1, which is what the paper's recursion arrives at and is worked out here
    in one go after a task. inputs: 'sample', each one's own; 'batch', the mean of every 128, as in the authors' code, which
    also brings P up to date within a task. Adds a pass over the data a task and a product a layer to a step. Stores D x D
    numbers a layer twice.
    """

    alpha: float = 1.0
    inputs: str = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.owm.alpha", self.alpha, 0, above=True)
        one_of("strategy.owm.inputs", self.inputs, ("sample", "batch"))

    def projection(self, kept: Tensor) -> Tensor:
        """Return alpha (X' X + alpha I)^-1 of the products X' X of a layer's inputs."""
        eye = torch.eye(len(kept), dtype=kept.dtype, device=kept.device)
        return (self.alpha * torch.linalg.inv(kept + self.alpha * eye)).float()

    def after_task(self, scope: Scope, task: Task) -> None:
        """Take up the task's inputs."""
        for found in layer_inputs(scope.model, task.train.batches(128)):
            for name, x in found.items():
                x = (x.mean(0, keepdim=True) if self.inputs == "batch" else x).double()
                self.kept[name] = self.kept.get(name, x.new_zeros(x.shape[1], x.shape[1])) + x.T @ x
        self.restored()
