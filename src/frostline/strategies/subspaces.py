"""Layers that learn in the directions that old inputs do not use: what GPM and OWM have in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from frostline.core.projection import others_zero, project_layer
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.structure import head
from frostline.core.types import Batch, Task
from frostline.strategies.base import Grads, Strategy


@dataclass
class Subspaces(Strategy):
    """Multiply each layer's gradient by a projection of its inputs; a subclass says in after_task which.

    A weight and its bias are one matrix. What is no linear layer and no plain convolution stands still after the first task,
    running statistics too. In a task-incremental stream the head's rows belong to their tasks, and it is left alone. Momentum
    that is carried from task to task, and weight decay, move weights out of the subspace.
    """

    tasks: int = field(default=0, init=False)

    def projection(self, layer: str) -> Tensor | None:
        """Return the matrix [D, D] for a layer's inputs, None where nothing is known of it yet."""
        raise NotImplementedError

    def project(self, step: Step, batch: Batch, grads: Grads) -> Grads:
        """Return the gradients in the directions that are free."""
        if not self.tasks:
            return grads
        model, own_rows = step.scope.model, step.task.visible is not None and step.task.visible.ndim > 1
        outside = head(model) if own_rows else frozenset()
        found, known = dict(grads), []
        for name in self.layers(model):
            projection = self.projection(name)
            if projection is not None:
                known.append(name)
                found |= project_layer(name, grads, projection)
        found |= others_zero(grads, known)
        return {name: grads[name] if name in outside else g for name, g in found.items()}

    def layers(self, model: nn.Module) -> list[str]:
        """Return the names of the layers that are projected."""
        raise NotImplementedError

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Let running statistics stand still after the first task."""
        for module in model.modules():
            if self.tasks and "running_mean" in module._buffers and module.training:
                module.eval()
        yield

    def after_task(self, scope: Scope, task: Task) -> None:
        self.tasks += 1

    def recalls(self) -> bool:
        """Return whether it holds on to earlier tasks and does nothing else: it does."""
        return True

    def reads_samples(self) -> bool:
        """Say no: gradients are all that it looks at."""
        return False
