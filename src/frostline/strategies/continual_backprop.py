"""Continual backpropagation: units that are of little use begin again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range
from frostline.core.rng import generator
from frostline.core.step import Step
from frostline.core.structure import HiddenUnits
from frostline.core.types import Batch, TaskStream
from frostline.core.units import activations, needs_hidden_units, renew, training_units
from frostline.strategies.base import Grads, Strategy


@dataclass
class ContinualBackprop(Strategy):
    """Replace the least useful old enough units of each hidden layer, a small share a step (Dohare et al. 2024, Nature 632).

    A unit's utility is a running mean of |activation| x the sum of its outgoing |weights|. A unit older than `maturity`
    steps may be replaced: incoming weights drawn anew, its bias and outgoing weights 0, its optimizer state too. rate: share
    of the mature units of a layer that are replaced a step; decay: of the running mean. carry_over: what a replaced unit put
    out on average goes into the next layer's bias, as in the authors' code; the paper leaves it out. Hidden layers are found
    as linear, activation, linear (core.structure.hidden_units); one whose weights do not train is left alone. Stores two
    numbers a unit.
    """

    keeps = ("utility", "activity", "age", "due", "drawn")

    rate: float = 1e-4
    maturity: int = 100
    decay: float = 0.99
    carry_over: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        in_range("strategy.continual_backprop.rate", self.rate, 0, 1)
        in_range("strategy.continual_backprop.maturity", self.maturity, 0)
        in_range("strategy.continual_backprop.decay", self.decay, 0, 1)
        self.utility: dict[str, Tensor] = {}
        self.activity: dict[str, Tensor] = {}  # running mean of each unit's activation
        self.age: dict[str, Tensor] = {}  # on the CPU, where the loop decides
        self.due: dict[str, float] = {}  # units of each layer that should have been replaced by now
        self.drawn = 0
        self._now: dict[str, Tensor] = {}  # this step's activations

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_hidden_units("continual_backprop", model)

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Look at the activations of every forward pass."""
        with activations(model, self._now):
            yield

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Update what each unit is worth and replace those that are due."""
        for units, h in training_units(step, self._now):
            self._update(step, units, h)

    def _update(self, step: Step, units: HiddenUnits, h: Tensor) -> None:
        layer, model = units.layer, step.scope.model
        outgoing = model.get_parameter(f"{units.following}.weight").detach()
        worth, mean = h.abs().mean(0) * outgoing.abs().sum(0), h.mean(0)
        if layer not in self.utility:
            self.utility[layer], self.activity[layer] = torch.zeros_like(worth), torch.zeros_like(mean)
            self.age[layer], self.due[layer] = torch.zeros(len(worth), dtype=torch.int64), 0.0
        self.utility[layer] = torch.lerp(worth, self.utility[layer], self.decay)
        self.activity[layer] = torch.lerp(mean, self.activity[layer], self.decay)
        self.age[layer] = self.age[layer] + 1
        mature = self.age[layer] > self.maturity
        self.due[layer] += self.rate * int(mature.sum())
        count = int(self.due[layer])
        if count:
            self.due[layer] -= count
            value = torch.where(mature.to(worth.device), self.utility[layer], torch.inf)
            self._replace(step, units, value.argsort()[:count])

    def _replace(self, step: Step, units: HiddenUnits, which: Tensor) -> None:
        layer, scope = units.layer, step.scope
        following = scope.parameters.get(f"{units.following}.bias")
        if self.carry_over and following is not None:
            outgoing = scope.parameters[f"{units.following}.weight"]
            following.data += outgoing.data[:, which] @ self.activity[layer][which]
        renew(step, units, which, generator(self.seed, "continual backprop", layer, self.drawn))
        self.drawn += 1
        for store in (self.utility, self.activity):
            store[layer] = store[layer].index_fill(0, which, 0.0)
        self.age[layer] = self.age[layer].index_fill(0, which.cpu(), 0)
