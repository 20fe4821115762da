"""Learning without forgetting: answer on the new data as the old model did."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range, one_of
from frostline.core.objectives import Classification
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies.base import Strategy, needs_classes


@dataclass
class LwF(Strategy):
    """Add strength * distillation from the model as it was before the task (Li & Hoiem 2017, arXiv 1606.09282).

    The term is the KL divergence from the old to the new probabilities at `temperature`, over the classes learned so far; in
    a task-incremental stream over each old task's own classes, summed. rescale: times temperature^2, so that its gradient
    does not shrink with it (Hinton et al. 2015, van de Ven et al. 2022); the paper's formula and Avalanche's code leave it
    out. The code of van de Ven et al. 2022 also gives the term the weight of all tasks before (each_task; several heads have
    it by their sum), and lets new classes take part in the new probabilities (among=all; one head). Stores nothing between
    tasks; while one is learned, a copy of what trains. Adds an evaluation-mode forward pass a step.
    """

    keeps = ("teacher", "groups")

    strength: float = 1.0
    temperature: float = 2.0
    rescale: bool = True
    each_task: bool = False
    among: str = "old"

    def __post_init__(self) -> None:
        in_range("strategy.lwf.strength", self.strength, 0)
        in_range("strategy.lwf.temperature", self.temperature, 0, above=True)
        one_of("strategy.lwf.among", self.among, ("old", "all"))
        self.teacher: dict[str, Tensor] = {}
        self.groups: list[Tensor] = []  # classes that belong together, as places among the logits; none: all of them

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_classes("lwf", stream, several=True)

    def recalls(self) -> bool:
        """Return whether it holds on to earlier tasks and does nothing else: it does."""
        return True

    def thawing(self, scope: Scope, task: Task) -> None:
        """Copy what is about to move, the first time in a task that it does."""
        if self.groups:
            self.teacher = scope.snapshot(self.teacher)

    def additive(self) -> bool:
        return True

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the distillation term."""
        if not self.teacher or not self.strength:
            return logits.new_zeros(())
        old = step.teacher(batch, self.teacher)
        counts = step.task.objective.counted(batch.y)
        places = [group if len(group) else slice(None) for group in self.groups]
        if len(places) > 1:
            each = torch.stack([self._divergence(step.raw[..., place], old[..., place]) for place in places]).sum(0)
        else:
            new = logits if self.among == "all" else step.raw[..., places[0]]
            each = self._divergence(new, old[..., places[0]], places[0] if self.among == "all" else slice(None))
        scale = self.strength * (self.temperature**2 if self.rescale else 1.0)
        if self.each_task and len(places) == 1:
            scale *= step.task.index
        return scale * (each * counts).sum() / counts.sum()

    def _divergence(self, new: Tensor, old: Tensor, places: slice | Tensor = slice(None)) -> Tensor:
        """Return KL(old || new at `places`) of each target, over the last dimension."""
        new, old = ((logits / self.temperature).log_softmax(-1) for logits in (new, old))
        return (old.exp() * (old - new[..., places])).sum(-1)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Note which classes the model can answer for now."""
        self.teacher = {}
        if not isinstance(task.objective, Classification):
            return
        if task.visible is None:
            self.groups = [torch.zeros(0, dtype=torch.int64)]
        elif task.visible.ndim == 1:
            self.groups = [task.visible.nonzero().squeeze(1)]
        else:
            self.groups = [*self.groups, task.visible[task.index].nonzero().squeeze(1)]
