"""A learning rate for each layer: smaller ones for the first blocks, or what patterns of names say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from frostline.core.checks import UsageError, in_range
from frostline.core.scope import Scope
from frostline.core.structure import everything, parts
from frostline.core.types import Task, TaskStream
from frostline.strategies.base import Strategy


@dataclass
class LayerRates(Strategy):
    """Multiply a block's learning rate by `decay` for every block above it (Howard and Ruder 2018, arXiv 1801.06146).

    The head, and with it the deepest part, learns at the whole rate. The paper's decay is 1/2.6. factors: {pattern: factor} of
    parameter names, multiplied with that, of which the first that is found in a name counts: head=3 for a head that learns
    faster, norms=0 is what a selector says more cheaply. Stores nothing, adds nothing to a step.
    """

    decay: float = 0.8
    factors: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        in_range("strategy.layer_rates.decay", self.decay, 0, 1, above=True)
        for pattern, factor in self.factors.items():
            in_range(f"strategy.layer_rates.factors.{pattern}", factor, 0)
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(
                    f"strategy.layer_rates.factors: {pattern!r} is no regular expression: {error}."
                ) from error
        self._rates: dict[str, float] = {}

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        names = sorted(everything(model))
        for pattern in self.factors:
            if not any(re.search(pattern, name) for name in names):
                raise UsageError(
                    f"strategy.layer_rates.factors: {pattern!r} is found in no parameter's name. There are "
                    f"{', '.join(names[:4])}, ..."
                )

    def thawing(self, scope: Scope, task: Task) -> None:
        """Note the rate of all that is about to train."""
        deepest_first = [*reversed(parts(scope.model))]
        above = {name: depth for depth, group in enumerate(deepest_first) for name in group}
        self._rates = {
            name: self.decay ** above.get(name, len(deepest_first)) * self._factor(name) for name in scope.names
        }

    def _factor(self, name: str) -> float:
        return next((factor for pattern, factor in self.factors.items() if re.search(pattern, name)), 1.0)

    def rates(self, number: int, steps: int) -> float | Mapping[str, float]:
        """Return each parameter's share of the learning rate."""
        return self._rates

    def reads_samples(self) -> bool:
        """Say no."""
        return False
