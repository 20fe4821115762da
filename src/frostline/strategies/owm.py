"""Orthogonal weights modification: a projector for each layer that fades what old inputs use."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range, one_of
from frostline.core.projection import layer_inputs, projected_layers
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

    keeps = ("grams", "projections", "tasks")

    alpha: float = 1.0
    inputs: str = "batch"
    grams: dict[str, Tensor] = field(default_factory=dict, init=False)
    projections: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        in_range("strategy.owm.alpha", self.alpha, 0, above=True)
        one_of("strategy.owm.inputs", self.inputs, ("sample", "batch"))

    def layers(self, model: nn.Module) -> list[str]:
        return list(projected_layers(model))

    def projection(self, layer: str) -> Tensor | None:
        return self.projections.get(layer)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Take up the task's inputs."""
        super().after_task(scope, task)
        for found in layer_inputs(scope.model, task.train.batches(128)):
            for name, x in found.items():
                x = (x.mean(0, keepdim=True) if self.inputs == "batch" else x).double()
                self.grams[name] = self.grams.get(name, x.new_zeros(x.shape[1], x.shape[1])) + x.T @ x
        for name, gram in self.grams.items():
            eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            self.projections[name] = (self.alpha * torch.linalg.inv(gram + self.alpha * eye)).float()
