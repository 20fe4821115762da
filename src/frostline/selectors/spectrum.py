"""The weight matrices that look least like noise."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass

from torch import nn

from frostline.core.checks import in_range
from frostline.core.structure import head, layers
from frostline.core.types import Task
from frostline.costs import TaskCosts
from frostline.selectors.base import Selector
from frostline.selectors.scores import spectrum


@dataclass
class Spectrum(Selector):
    """Thaw the `fraction` of each kind of layer with the best spectral signal-to-noise ratio, and the head.

    Hartford et al. 2024 (arXiv 2406.06623). A kind is what blocks have in common: names that differ in the numbers of their
    blocks only. Needs no data, so it can be decided before a task's arrive; its singular values are in the seconds, since
    no counter counts them as operations.
    """

    fraction: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("selector.fraction", self.fraction, 0, 1, above=True)

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        groups, outside = layers(model), head(model)
        kinds: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for name, score in spectrum(model).items():
            if not set(groups[name]) <= outside:
                kinds[kind(name)].append((score, name))
        best = [
            name
            for scored in kinds.values()
            for _, name in sorted(scored, reverse=True)[: math.ceil(self.fraction * len(scored))]
        ]
        return outside.union(*(groups[name] for name in best))


def kind(layer: str) -> str:
    """Return the layer's name without the numbers of its blocks: backbone.block7.conv1 -> backbone.block.conv1."""
    *path, last = layer.split(".")
    parts = [re.sub(r"\d+$", "", part) for part in path] + ([] if last.isdigit() else [last])
    return ".".join(part for part in parts if part)
