"""The layers that the new task pulls at hardest."""

from dataclasses import dataclass

from torch import nn

from frostline.checks import UsageError, in_range
from frostline.costs import TaskCosts
from frostline.importance import mean_by_layer, probe, squared_gradients
from frostline.rng import generator
from frostline.scope import head, layers
from frostline.selectors.base import Selector
from frostline.types import Task


@dataclass
class TopGradient(Selector):
    """Thaw the layers with the largest mean squared per-example gradient per parameter, and the head.

    fraction: the most that may thaw, as a share of all parameters, the head included; layers are taken in the order of
    their score as long as they fit. samples: training samples probed.
    """

    fraction: float = 0.3
    samples: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("selector.fraction", self.fraction, 0, 1, above=True)
        in_range("selector.samples", self.samples, 1)

    def check(self, model: nn.Module) -> None:
        sizes = {n: p.numel() for n, p in model.named_parameters()}
        least = sum(sizes[n] for n in head(model)) / sum(sizes.values())
        if least > self.fraction:
            raise UsageError(
                f"selector.fraction={self.fraction}: the head alone holds {least:.4f} of the parameters. "
                f"The nearest valid value is {least:.4f}, rounded up."
            )

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        rng = generator(self.seed, "top gradient", task.index)
        squares = squared_gradients(model, task, probe(task, costs.probe_samples(self.samples), rng), labels="empirical", generator=rng)
        groups = layers(model)
        scores = mean_by_layer(groups, squares)
        sizes = {n: p.numel() for n, p in model.named_parameters()}
        chosen = set(head(model))
        room = self.fraction * sum(sizes.values()) - sum(sizes[n] for n in chosen)
        for layer in sorted(groups, key=lambda name: -scores[name]):
            fresh = set(groups[layer]) - chosen
            size = sum(sizes[n] for n in fresh)
            if size <= room:
                chosen |= fresh
                room -= size
        return frozenset(chosen)
