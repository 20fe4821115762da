"""Stay near the start: near pretrained weights, or near the first ones, where a net stays able to learn."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from frostline.core.checks import in_range
from frostline.core.scope import Scope
from frostline.core.structure import head
from frostline.core.types import Task
from frostline.strategies.quadratic import Quadratic


@dataclass
class L2SP(Quadratic):
    """Add strength/2 * |theta - theta_0|^2 to the loss, theta_0 the weights before any training.

    Li et al. 2018 (L2-SP, arXiv 1802.01483), where these are pretrained ones: the head, which is new, is drawn to 0 by
    head_strength instead. With to_start it is drawn to its start as all else: that is Kumar et al. 2023 (L2-Init, arXiv
    2308.11958), for nets that must stay able to learn; their own formula has no factor 1/2. Stores one number a weight. Adds
    a pass over the weights to a step.
    """

    name: ClassVar[str] = "l2_sp"
    factor: ClassVar[float] = 0.5
    keeps = ("centre",)

    strength: float = 0.1
    head_strength: float = 0.01
    to_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.l2_sp.head_strength", self.head_strength, 0)

    def recalls(self) -> bool:
        """Say no: it is about the start, not about earlier tasks."""
        return False

    def thawing(self, scope: Scope, task: Task) -> None:
        """Note where what trains for the first time began."""
        outside = head(scope.model) if not self.to_start else frozenset()
        for name, p in scope.parameters.items():
            new = name in outside
            if name not in self.centre:
                self.centre[name] = torch.zeros_like(p) if new else p.detach().clone()
            weight = self.head_strength / self.strength if new and self.strength else 1.0
            self.importance[name] = torch.full((), weight, dtype=p.dtype, device=p.device)
