"""The best layers under a share of the parameters: what the rules by score have in common."""

from dataclasses import dataclass

from torch import nn

from frostline.core.checks import UsageError, in_range
from frostline.core.structure import head
from frostline.costs import TaskCosts
from frostline.selectors.base import Selector


@dataclass
class UnderShare(Selector):
    """Thaw the best layers, and the head, under a share of the parameters.

    fraction: the most that may thaw, as a share of all parameters, the head included. samples: the most training samples
    probed; never so many that the probe costs over 1/96 of full training on the task.
    """

    fraction: float = 0.3
    samples: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("selector.fraction", self.fraction, 0, 1, above=True)
        in_range("selector.samples", self.samples, 1)

    def check(self, model: nn.Module, costs: TaskCosts) -> None:
        sizes = {n: p.numel() for n, p in model.named_parameters()}
        least = sum(sizes[n] for n in head(model)) / sum(sizes.values())
        if least > self.fraction:
            raise UsageError(
                f"selector.fraction={self.fraction}: the head alone holds {least:.4f} of the parameters. "
                f"The nearest valid value is {least:.4f}, rounded up."
            )
