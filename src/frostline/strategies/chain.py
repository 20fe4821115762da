"""Chain: several strategies as one."""

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from frostline.core.checks import UsageError
from frostline.core.step import Step
from frostline.core.types import Batch
from frostline.strategies.base import Strategy
from frostline.strategies.joint import Joint

OWNED = {  # hooks that only one member may have, and what it decides there
    "task": "which data to learn from",
    "parts": "what learning a task consists of",
    "criterion": "the loss",
    "serving": "what answers when test data are decided",
}


def _each(hook: str) -> Any:
    """Every member in order."""

    def call(self: "Chain", *args: Any) -> None:
        for member in self.using(hook):
            getattr(member, hook)(*args)

    return call


def _pipe(hook: str) -> Any:
    """The output of one is the last argument of the next."""

    def call(self: "Chain", *args: Any) -> Any:
        *given, value = args
        for member in self.using(hook):
            value = getattr(member, hook)(*given, value)
        return value

    return call


def _owner(hook: str) -> Any:
    """The one member that has it."""

    def call(self: "Chain", *args: Any) -> Any:
        return getattr(next(iter(self.using(hook)), self.members[0]), hook)(*args)

    return call


def _nest(hook: str) -> Any:
    """Every member's context, the first outermost."""

    @contextmanager
    def call(self: "Chain", *args: Any) -> Any:
        with ExitStack() as stack:
            for member in self.using(hook):
                stack.enter_context(getattr(member, hook)(*args))
            yield

    return call


class Chain(Strategy):
    """Compose members in their order; what each hook does with several of them stands in the table of this class."""

    check = _each("check")
    prepare = _each("prepare")
    before_task = _each("before_task")
    thawing = _each("thawing")
    after_step = _each("after_step")
    after_part = _each("after_part")
    after_task = _each("after_task")
    augment = _pipe("augment")
    project = _pipe("project")
    task = _owner("task")
    parts = _owner("parts")
    criterion = _owner("criterion")
    serving = _owner("serving")
    watching = _nest("watching")

    def __init__(self, members: Sequence[Strategy]):
        if not members:
            raise UsageError("strategy=[]: a chain needs at least one strategy.")
        self.members = list(members)
        self.steady = all(member.steady for member in self.members)
        self._using: dict[str, list[Strategy]] = {}
        for hook, what in OWNED.items():
            owners = self.using(hook)
            if len(owners) > 1:
                names = " and ".join(type(m).__name__ for m in owners)
                raise UsageError(
                    f"A chain has one owner of `{hook}`, but {names} both decide {what}: keep one of them."
                )
        joint = any(isinstance(m, Joint) for m in members)
        if joint and (idle := next((m for m in members if m.recalls()), None)):
            raise UsageError(
                f"Joint learns all tasks as one: {type(idle).__name__} beside it does nothing. Keep one of them."
            )

    def using(self, hook: str) -> list[Strategy]:
        """Return the members that do something of their own at `hook`."""
        if hook not in self._using:
            self._using[hook] = [m for m in self.members if m.uses(hook)]
        return self._using[hook]

    def additive(self) -> bool:
        return all(member.additive() for member in self.members)

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the sum of the members' penalties."""
        terms = [m.penalty(step, batch, logits) for m in self.using("penalty")]
        return sum(terms, start=logits.new_zeros(())) if len(terms) != 1 else terms[0]

    def rates(self, number: int, steps: int) -> float | Mapping[str, float]:
        """Return the product of the members' rates."""
        whole, named = 1.0, {}
        for member in self.using("rates"):
            rates = member.rates(number, steps)
            if isinstance(rates, Mapping):
                named |= {name: named.get(name, 1.0) * rate for name, rate in rates.items()}
            else:
                whole *= rates
        return {name: whole * rate for name, rate in named.items()} if named else whole

    def work(self, size: int) -> Hashable:
        return tuple(m.work(size) for m in self.members)

    def remembered(self) -> Iterable[Batch] | None:
        parts = [m.remembered() for m in self.members]
        return None if None in parts else itertools.chain.from_iterable(p for p in parts if p is not None)

    def reads_samples(self) -> bool:
        return any(m.reads_samples() for m in self.members)

    def sees_images(self) -> bool:
        return any(m.sees_images() for m in self.members)

    def stored_bytes(self) -> int:
        return sum(m.stored_bytes() for m in self.members)

    def state_dict(self) -> dict[str, Any]:
        return {"members": [m.state_dict() for m in self.members]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for member, part in zip(self.members, state["members"], strict=True):
            member.load_state_dict(part)

    def uses(self, hook: str) -> bool:
        return bool(self.using(hook))
