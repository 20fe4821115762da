"""How the work of a run is done: what the loop asks for, and what may answer it faster.

`plain` answers everything the plain way; speed/ has another answer that saves work and changes no number.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from frostline.core.scope import Scope
from frostline.core.step import Step, Weights
from frostline.core.types import Batch, Task


class Entrance(Protocol):
    """What a run's batches go in by during a stretch: the whole model, or a cache of its frozen first stages."""

    @property
    def line(self) -> int:
        """The number of stages that do not run."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps."""
        ...

    def view(self, batch: Batch) -> Batch:
        """Return the batch as it is learned from: random images are drawn here, once for whoever looks at them."""
        ...

    def logits(self, batch: Batch, weights: Weights | None = None) -> Tensor:
        """Return raw logits; see core.step.Network."""
        ...

    def features(self, batch: Batch) -> Tensor:
        """Return what a staged model's head makes logits of."""
        ...

    def teach(self, batch: Batch, weights: Weights) -> Tensor:
        """Return raw logits in eval mode; see core.step.Network."""
        ...

    def check(self) -> None:
        """Raise RuntimeError where something went wrong that no step could see."""
        ...


class Engine(Protocol):
    """What computes the steps of one or several lessons in a stretch; `place` is a lesson's number among them."""

    losses: Tensor  # [steps of the part, lessons], 0 for steps to come

    @property
    def lessons(self) -> Sequence[Any]:
        """Whose steps it computes."""
        ...

    @property
    def steps(self) -> Sequence[Step]:
        """The step as each lesson's strategy sees it."""
        ...

    @property
    def wants_samples(self) -> bool:
        """Whether batches must come with their samples: not where nobody looks at them, or the engine reads them itself."""
        ...

    def complete(self, batch: Batch) -> Batch:
        """Return a batch with its samples, where they were left to be read with the others'."""
        ...

    def view(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Return each lesson's batch as it is learned from."""
        ...

    def forward(self, batches: Sequence[Batch]) -> Sequence[Tensor] | Tensor:
        """Return raw logits, those of each lesson or [S, B, ...] of all."""
        ...

    def losses_in_pieces(self, batches: Sequence[Batch]) -> list[Tensor] | None:
        """Return the losses where nobody wants the logits and they are too large to be there as a whole; else None."""
        ...

    def mask(self, batches: Sequence[Batch], raws: Any) -> Sequence[Tensor] | Tensor:
        """Return the same with invisible classes at -inf."""
        ...

    def backward(self, losses: Sequence[Tensor] | Tensor, more: bool = False) -> None:
        """Compute the gradients of the sum of the losses, of which each is one lesson's; more: add them to those there are."""
        ...

    def gradients(self, place: int) -> dict[str, Tensor]:
        """Return a lesson's gradients by parameter name."""
        ...

    def replace_gradients(self, place: int, old: dict[str, Tensor], new: dict[str, Tensor]) -> None:
        """Put other gradients in the place of those that `gradients` gave."""
        ...

    def update(self) -> None:
        """Let the optimizer take its step."""
        ...

    def set_rates(self) -> None:
        """Set the learning rates of this step."""
        ...

    def settle(self) -> None:
        """Give every run's own optimizer its state, as it is now."""
        ...

    def close(self) -> None:
        """Settle, and check that nothing went wrong unseen."""
        ...


@runtime_checkable
class Marching(Protocol):
    """An engine that can take several steps in a row, at which nobody but itself looks."""

    @property
    def stride(self) -> int:
        """The most steps that it takes in a row: 1 where a method, a selector or a schedule looks at each."""
        ...

    def march(self, batches: Sequence[Batch], count: int) -> Tensor:
        """Take `count` steps, each on as many rows of the lessons' batches, in their order; return the losses [count, S]."""
        ...


class Backend(Protocol):
    """One run's way of doing its work; what concerns several runs is asked of the first one's."""

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What it did that a reader of the results wants to know, a task each."""
        ...

    def alike(self, lesson: Any) -> object:
        """Return what must be equal for two lessons to be learned in one pass; a lesson of its own kind is learned alone."""
        ...

    def enter(self, lesson: Any, scope: Scope) -> Entrance:
        """Return what this stretch's batches go in by."""
        ...

    def get_ready(self, lesson: Any, scope: Scope) -> None:
        """Do what must be done once the strategy is ready too, and before steps are timed: compiling."""
        ...

    def engine(self, lessons: Sequence[Any], scopes: Sequence[Scope]) -> Engine:
        """Return what computes the steps of a stretch."""
        ...

    def leave(self, lesson: Any) -> None:
        """Let go of what was kept for the part of the task that is over."""
        ...

    def evaluate(self, runs: Sequence[Any], moment: int | None) -> None:
        """Add a row to each run's matrices, after task `moment` or before the first."""
        ...

    def reuse(self, run: Any, task: Task) -> float:
        """Return the share of the steps' samples for which the frozen prefix will be computed, 1 without a cache."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a kill."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        ...
