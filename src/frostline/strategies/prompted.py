"""What methods with prompts have in common: L2P, DualPrompt, CODA-Prompt."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from frostline.core.prompting import Prompting, Tokens, needs_tokens
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.structure import is_staged
from frostline.core.tensors import flags
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies.base import Grads, Strategy, needs_features


@dataclass
class Prompted(Strategy):
    """Learn prompts and the head, and leave the transformer as it is; a subclass says what the prompts are.

    Prompts are parameters of the head (`head.prompts...`), so a selector that thaws the head thaws them. A task's own are
    those whose names end in its number: later tasks leave them alone. Logits of classes that are not the task's are left out
    of its loss, as in the authors' codes.
    """

    name: ClassVar[str]
    stay: ClassVar[bool] = False  # whether tokens go on to the end of the net
    keeps = ("learned",)
    steady = False

    seed: int = 0
    learned: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.prompting = Prompting()
        self.task_now: int | None = None  # that is learned at the moment
        self._pinned: dict[str, Tensor] = {}
        self._others = torch.zeros(0, dtype=torch.bool)  # classes that are not the task's

    def create(self, prompts: nn.ParameterDict, width: int, blocks: int, index: int) -> None:
        """Add the parameters that task `index` brings, unless they are there."""
        raise NotImplementedError

    def drawn(self, key: str, *shape: int) -> nn.Parameter:
        """Return a parameter of random values between -1 and 1, the same ones for the same seed and key."""
        return nn.Parameter(torch.empty(shape).uniform_(-1, 1, generator=generator(self.seed, self.name, key)))

    def tokens(self, prompts: nn.ParameterDict, query: Tensor) -> Tokens:
        """Return the tokens for queries [B, D]."""
        raise NotImplementedError

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_features(self.name, model, stream)
        needs_tokens(self.name, model, stream[0].train)

    def prepare(self, model: nn.Module, index: int) -> None:
        """Give the head the prompts that the task needs."""
        head = model.get_submodule("head")
        assert isinstance(head, nn.Linear)
        assert is_staged(model)
        if not hasattr(head, "prompts"):
            head.prompts = nn.ParameterDict()
        prompts = head.get_submodule("prompts")
        assert isinstance(prompts, nn.ParameterDict)
        self.create(prompts, head.in_features, len(model.stages()) - 2, index)
        prompts.to(head.weight.device)

    def thawing(self, scope: Scope, task: Task) -> None:
        """Note the task, and what of earlier tasks must not move."""
        self.task_now = task.index
        self._others = ~flags(task.classes, scope.model.get_parameter("head.weight"))
        ending = f"_{task.index}"
        self._pinned = {
            name: p.detach().clone()
            for name, p in scope.parameters.items()
            if name.startswith("head.prompts.") and name.rpartition("_")[2].isdigit() and not name.endswith(ending)
        }

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Put the prompts in."""
        with self._at(model):
            yield

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Answer with the prompts that the queries choose."""
        now, self.task_now = self.task_now, None
        try:
            if self.learned:
                with self._at(model):
                    yield
            else:
                yield
        finally:
            self.task_now = now

    @contextmanager
    def _at(self, model: nn.Module) -> Iterator[None]:
        prompts = model.get_submodule("head.prompts")
        assert isinstance(prompts, nn.ParameterDict)
        with self.prompting.at(model, lambda query: self.tokens(prompts, query), self.stay):
            yield

    def criterion(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the cross-entropy among the task's own classes."""
        return step.loss(logits.masked_fill(self._others, -torch.inf), batch.y)

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Put back what belongs to earlier tasks."""
        for name, value in self._pinned.items():
            step.scope.parameters[name].data.copy_(value)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Note that the task is learned."""
        self.learned = max(self.learned, task.index + 1)

    def remembered(self) -> None:
        """Say that nothing can be cached: the prompts stand within the frozen part."""
