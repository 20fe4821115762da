"""ReDo: units that hardly ever say anything begin again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from frostline.core.checks import in_range
from frostline.core.rng import generator
from frostline.core.step import Step
from frostline.core.types import Batch, TaskStream
from frostline.core.units import activations, needs_hidden_units, renew, training_units
from frostline.strategies.base import Grads, Strategy


@dataclass
class ReDo(Strategy):
    """Recycle dormant units every so many steps (Sokar et al. 2023, arXiv 2302.12902).

    A unit's score is its mean |activation| over the batch, divided by the mean of its layer's; one at or below `threshold` is
    dormant: its incoming weights are drawn anew, bias and outgoing weights are 0, its optimizer state too. every: steps,
    counted over all tasks. Hidden layers are found as linear, activation, linear (core.structure.hidden_units); one whose
    weights do not train is left alone. Stores nothing.
    """

    name: ClassVar[str] = "redo"
    keeps = ("taken", "drawn")

    threshold: float = 0.1
    every: int = 1000
    seed: int = 0
    taken: int = field(default=0, init=False)
    drawn: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        in_range("strategy.redo.threshold", self.threshold, 0)
        in_range("strategy.redo.every", self.every, 1)
        self._now: dict[str, Tensor] = {}  # this step's activations

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_hidden_units("redo", model)

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Look at the activations of every forward pass."""
        with activations(model, self._now):
            yield

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Let the dormant units begin again, when it is time."""
        self.taken += 1
        if self.taken % self.every:
            return
        for units, h in training_units(step, self._now):
            said = h.abs().mean(0)
            which = (said <= self.threshold * said.mean()).nonzero().squeeze(1)
            if len(which):
                renew(step, units, which, generator(self.seed, "redo", units.layer, self.drawn))
        self.drawn += 1

    def reads_samples(self) -> bool:
        """Say no: the activations are looked at."""
        return False
