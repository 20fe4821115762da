"""Chain: several strategies as one."""

import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from torch import Tensor

from frostline.checks import UsageError
from frostline.scope import Scope
from frostline.strategies.base import Grads, Strategy
from frostline.types import Batch, Task, TaskStream

SINGLE = ("task", "criterion")  # hooks that only one member may own


class Chain(Strategy):
    """Compose members in order: augment and project are piped, penalties summed, task and criterion have one owner."""

    def __init__(self, members: Sequence[Strategy]):
        if not members:
            raise UsageError("strategy=[]: a chain needs at least one strategy.")
        self.members = list(members)
        self._owner: dict[str, Strategy] = {}
        for hook in SINGLE:
            owners = [m for m in self.members if m.uses(hook)]
            if len(owners) > 1:
                names = " and ".join(type(m).__name__ for m in owners)
                what = "which data to learn from" if hook == "task" else "the loss"
                raise UsageError(
                    f"A chain has one owner of `{hook}`, but {names} both decide {what}: keep one of them."
                )
            self._owner[hook] = owners[0] if owners else self.members[0]

    def task(self, stream: TaskStream, index: int) -> Task | None:
        return self._owner["task"].task(stream, index)

    def before_task(self, scope: Scope, task: Task) -> None:
        for member in self.members:
            member.before_task(scope, task)

    def augment(self, batch: Batch) -> Batch:
        for member in self.members:
            batch = member.augment(batch)
        return batch

    def criterion(self, batch: Batch, logits: Tensor) -> Tensor:
        return self._owner["criterion"].criterion(batch, logits)

    def penalty(self, scope: Scope, batch: Batch, logits: Tensor) -> Tensor:
        terms = [m.penalty(scope, batch, logits) for m in self.members if m.uses("penalty")]
        return sum(terms, start=logits.new_zeros(())) if len(terms) != 1 else terms[0]

    def project(self, scope: Scope, grads: Grads) -> Grads:
        for member in self.members:
            grads = member.project(scope, grads)
        return grads

    def after_step(self, scope: Scope, grads: Grads) -> None:
        for member in self.members:
            member.after_step(scope, grads)

    def after_task(self, scope: Scope, task: Task) -> None:
        for member in self.members:
            member.after_task(scope, task)

    def work(self, size: int) -> Hashable:
        return tuple(m.work(size) for m in self.members)

    def remembered(self) -> Iterable[Batch] | None:
        parts = [m.remembered() for m in self.members]
        return None if None in parts else itertools.chain.from_iterable(p for p in parts if p is not None)

    def reads_samples(self) -> bool:
        return any(m.reads_samples() for m in self.members)

    def stored_bytes(self) -> int:
        return sum(m.stored_bytes() for m in self.members)

    def state_dict(self) -> dict[str, Any]:
        return {"members": [m.state_dict() for m in self.members]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for member, part in zip(self.members, state["members"], strict=True):
            member.load_state_dict(part)

    def uses(self, hook: str) -> bool:
        return any(m.uses(hook) for m in self.members)
