"""How far a run has come: plain values, which a checkpoint holds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frostline.costs import Reference
from frostline.selectors.base import Change

Row = list[float | None]
MATRICES = ("accuracy", "loss", "aware", "within")  # they grow with the square of the tasks


@dataclass
class Progress:
    """How far a run has come: plain values, which a checkpoint holds as they are.

    prepared: tasks that the strategy has prepared the model for. task, part, step: where it is, the step of the open part
    over all its epochs. thawed: what the selector chose when the part began. change: what trains now. trained: all that
    trained in the open task. seen: samples of all training steps so far, by the shape of the model. plain: those that plain
    fine-tuning would have seen, each task's own data in every pass. references: what full fine-tuning takes for one,
    likewise. state_bytes: gradients and optimizer state, a task each. optimizer_memory: the optimizer's state of parameters
    that are not in it now. within: a row for each evaluation within a task: the task, the steps taken, the accuracy on each.
    aware: accuracy where samples say which task they are of, which a class-incremental stream does not ask. right: which test
    targets of each learned task were right last, bool. flips: for each task but the first, how many targets of earlier tasks
    became wrong, how many right, and of how many. retrained: which share of each block's parameters trained, a task each.
    said: what was said at first on each suite; output_drift: how far what is said has moved from it since, a row for each
    look. answers: to prompts, a row each. harness: scores of its tasks. losses: of each task's
    training steps so far, their sum and number.
    """

    prepared: int = 0
    task: int = 0
    part: int = 0
    step: int = 0
    thawed: list[str] | None = None
    change: Change | None = None
    trained: list[str] = field(default_factory=list)
    accuracy: list[Row] = field(default_factory=list)
    loss: list[Row] = field(default_factory=list)
    aware: list[Row] = field(default_factory=list)
    within: list[Row] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    flips: list[list[int]] = field(default_factory=list)
    retrained: list[dict[str, float]] = field(default_factory=list)
    losses: dict[int, tuple[float, int]] = field(default_factory=dict)
    held_out: dict[str, dict[str, Row]] = field(default_factory=dict)
    said: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    output_drift: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    harness: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)
    plain: dict[str, int] = field(default_factory=dict)
    references: dict[str, Reference] = field(default_factory=dict)
    state_bytes: list[dict[str, int]] = field(default_factory=list)
    optimizer_memory: dict[str, dict[str, Any]] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Return it as tensors and plain values."""
        change = self.change
        return {
            **vars(self),
            **{name: _packed(getattr(self, name)) for name in MATRICES},
            "change": None if change is None else [sorted(change.names), dict(change.rates), change.until],
            "references": {shape: asdict(reference) for shape, reference in self.references.items()},
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        """Return what state_dict described."""
        change = state["change"]
        if "aware" not in state:  # a checkpoint from before there was such a matrix
            state = {**state, "aware": torch.full_like(state["accuracy"], math.nan)}
        return cls(
            **{
                **state,
                **{name: _rows(state[name]) for name in MATRICES if name in state},
                "change": None if change is None else Change(frozenset(change[0]), change[1], change[2]),
                "references": {shape: Reference(**values) for shape, values in state["references"].items()},
            }
        )

    def begin_part(self, task: int, part: int = 0) -> None:
        """Stand before the first step of a part of a task."""
        if task != self.task:
            self.trained = []
        self.task, self.part, self.step, self.thawed, self.change = task, part, 0, None, None

    def training_loss(self, task: int) -> float | None:
        """Return the mean loss of a task's training steps; None where none was taken, or one was no number."""
        total, steps = self.losses.get(task, (0.0, 0))
        return total / steps if steps and math.isfinite(total) else None

    def full_flops(self, samples: Mapping[str, int]) -> float:
        """Return what full fine-tuning takes for so many samples of each shape of the model, in operations."""
        prices = {shape: reference.flops_per_sample or 0.0 for shape, reference in self.references.items()}
        return sum(count * prices.get(shape, 0.0) for shape, count in samples.items())

    @property
    def reference_seconds(self) -> float | None:
        """What full fine-tuning takes for a sample, where it was timed; the mean over the shapes of a model that grew."""
        timed = {
            shape: reference.seconds_per_sample
            for shape, reference in self.references.items()
            if reference.seconds_per_sample is not None
        }
        seen = sum(self.seen.get(shape, 0) for shape in timed)
        if not seen:
            return next(iter(timed.values()), None)
        return sum(seconds * self.seen.get(shape, 0) for shape, seconds in timed.items()) / seen


def _packed(rows: Sequence[Row]) -> Tensor:
    """Return rows as one tensor, NaN for None."""
    return torch.from_numpy(np.array(rows, dtype=np.float64))


def _rows(packed: Tensor) -> list[Row]:
    return [[None if math.isnan(value) else value for value in row] for row in packed.tolist()]
