"""Parameters by name."""

import re
from dataclasses import dataclass, field

from torch import nn

from frostline.core.checks import UsageError
from frostline.core.structure import everything, layers
from frostline.core.types import Task
from frostline.costs import TaskCosts
from frostline.selectors.base import Selector


@dataclass
class Pattern(Selector):
    """Thaw what any regular expression in `include` matches and none in `exclude` does; each must match something.

    A pattern is searched for in the full parameter name, such as `backbone.block7.conv1.weight`.
    """

    include: list[str] = field(default_factory=lambda: [".*"])
    exclude: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, patterns in (("include", self.include), ("exclude", self.exclude)):
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise UsageError(f"selector.{key}: {pattern!r} is not a regular expression: {error}.") from error

    def check(self, model: nn.Module, costs: TaskCosts) -> None:
        for key, patterns in (("include", self.include), ("exclude", self.exclude)):
            for pattern in patterns:
                if not any(re.search(pattern, name) for name in everything(model)):
                    known = ", ".join(list(layers(model))[:6])
                    raise UsageError(
                        f"selector.{key}: {pattern!r} matches no parameter. The layers are {known}, ...; "
                        "expected a regular expression found in a name such as "
                        f"{next(iter(dict(model.named_parameters())))!r}."
                    )
        if not self._matches(model):
            raise UsageError(f"selector.exclude={list(self.exclude)} leaves nothing of selector.include to train.")

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        return self._matches(model)

    def _matches(self, model: nn.Module) -> frozenset[str]:
        return frozenset(
            name
            for name in everything(model)
            if any(re.search(p, name) for p in self.include) and not any(re.search(p, name) for p in self.exclude)
        )
