"""Layers that learn in the directions that old inputs do not use: what GPM and OWM have in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from frostline.core.projection import project_layer, projected_layers
from frostline.core.scope import Scope, stop_statistics
from frostline.core.step import Step
from frostline.core.structure import head, parameter_of
from frostline.core.types import Batch, Task, TaskStream
from frostline.costs.memory import needs_room
from frostline.strategies.base import Grads, Strategy


@dataclass
class Subspaces(Strategy):
    """Multiply each layer's gradient by a projection of its inputs; a subclass says which, of what it keeps of each layer.

    A weight and its bias are one matrix. What is no linear layer and no plain convolution stands still after the first task,
    running statistics too. In a task-incremental stream the head's rows belong to their tasks, and it is left alone. Momentum
    that is carried from task to task, and weight decay, move weights out of the subspace.
    """

    keeps = ("kept",)

    kept: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.projections: dict[str, Tensor] = {}  # by layer, [D, D]
        self.free: frozenset[str] = frozenset()  # parameters that are left alone

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        widths = [layer.weight.flatten(1).shape[1] + 1 for layer in projected_layers(model).values()]
        needs_room(
            f"{type(self).__name__}: a square of each layer's inputs, of {max(widths, default=0)} at most,",
            24 * sum(width**2 for width in widths), next(model.parameters()).device, "a smaller net",
        )  # fmt: skip

    def projection(self, kept: Tensor) -> Tensor:
        """Return the matrix [D, D] for a layer's inputs."""
        raise NotImplementedError

    def restored(self) -> None:
        """Work the projections out from what is kept."""
        self.projections = {layer: self.projection(kept) for layer, kept in self.kept.items()}

    def thawing(self, scope: Scope, task: Task) -> None:
        """Note what is left alone."""
        own_rows = task.visible is not None and task.visible.ndim > 1
        self.free = head(scope.model) if own_rows else frozenset()

    def project(self, step: Step, batch: Batch, grads: Grads) -> Grads:
        """Return the gradients in the directions that are free."""
        if not self.projections:
            return grads
        found = {name: grads[name] if name in self.free else torch.zeros_like(g) for name, g in grads.items()}
        for layer, projection in self.projections.items():
            if parameter_of(layer, "weight") not in self.free:
                found |= project_layer(layer, grads, projection)
        return found

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Let running statistics stand still after the first task."""
        if self.projections:
            stop_statistics(model)
        yield

    def recalls(self) -> bool:
        """Return whether it holds on to earlier tasks and does nothing else: it does."""
        return True

    def reads_samples(self) -> bool:
        """Say no: gradients are all that it looks at."""
        return False
