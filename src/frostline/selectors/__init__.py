"""Which parameters thaw for a task: one rule a file."""

from frostline.selectors.base import Change, Selector
from frostline.selectors.depth import Everything, FirstK, HeadOnly, LastK
from frostline.selectors.pattern import Pattern
from frostline.selectors.top_gradient import TopGradient

__all__ = ["Change", "Everything", "FirstK", "HeadOnly", "LastK", "Pattern", "Selector", "TopGradient"]
