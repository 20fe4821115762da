"""Which parameters thaw for a task: one rule a file."""

from frostline.selectors.base import Selector, StepCost
from frostline.selectors.depth import Everything, FirstK, HeadOnly, LastK
from frostline.selectors.pattern import Pattern
from frostline.selectors.top_gradient import TopGradient

__all__ = ["Everything", "FirstK", "HeadOnly", "LastK", "Pattern", "Selector", "StepCost", "TopGradient"]
