"""Continual backpropagation: units that are of little use begin again."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError, in_range
from frostline.core.rng import generator
from frostline.core.step import Step
from frostline.core.structure import HiddenUnits, hidden_units
from frostline.core.types import Batch, TaskStream
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
        if not hidden_units(model):
            raise UsageError(
                f"strategy=continual_backprop: {type(model).__name__} has no hidden layer that it knows (linear, activation, "
                "linear). Expected such a net, as model=mlp, or one with a method hidden_units()."
            )

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Look at the activations of every forward pass."""
        with ExitStack() as stack:
            for units in hidden_units(model):

                def look(module: nn.Module, inputs: Any, output: Tensor, name: str = units.layer) -> None:
                    self._now[name] = output.detach().flatten(0, -2)

                handle = model.get_submodule(units.activation).register_forward_hook(look)
                stack.callback(handle.remove)
            yield

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Update what each unit is worth and replace those that are due."""
        for units in hidden_units(step.scope.model):
            names = [f"{module}.weight" for module in (units.layer, units.following)]
            if units.layer in self._now and all(name in step.scope.names for name in names):
                self._update(step, units, self._now[units.layer])

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
        weight, outgoing = scope.parameters[f"{layer}.weight"], scope.parameters[f"{units.following}.weight"]
        bound = weight.shape[1] ** -0.5  # of torch's own initial weights of a linear layer
        rng = generator(self.seed, "continual backprop", layer, self.drawn)
        fresh = (torch.rand(len(which), weight.shape[1], generator=rng) * 2 - 1) * bound
        self.drawn += 1
        following = scope.parameters.get(f"{units.following}.bias")
        if self.carry_over and following is not None:
            following.data += outgoing.data[:, which] @ self.activity[layer][which]
        weight.data[which] = fresh.to(weight)
        outgoing.data[:, which] = 0.0
        if f"{layer}.bias" in scope.parameters:
            scope.parameters[f"{layer}.bias"].data[which] = 0.0
        for name, rows in ((f"{layer}.weight", True), (f"{layer}.bias", True), (f"{units.following}.weight", False)):
            for value in step.state(name).values() if name in scope.parameters else ():
                if isinstance(value, Tensor) and value.shape == scope.parameters[name].shape:
                    value[(which if rows else (slice(None), which))] = 0.0
        for store in (self.utility, self.activity):
            store[layer] = store[layer].index_fill(0, which, 0.0)
        self.age[layer] = self.age[layer].index_fill(0, which.cpu(), 0)
