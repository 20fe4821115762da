"""The layers whose gradient the samples agree on."""

from dataclasses import dataclass

from torch import nn

from frostline.core.checks import in_range
from frostline.core.rng import generator
from frostline.core.structure import head, layers
from frostline.core.types import Task
from frostline.costs import TaskCosts
from frostline.selectors.base import Selector
from frostline.selectors.scores import snr, snr_of_the_code


@dataclass
class SignalToNoise(Selector):
    """Thaw the head and the layers whose per-sample gradient has a normalised E[g]^2 / Var[g] above `threshold`.

    This is Auto-SNR of Lee et al. 2023 (arXiv 2210.11466); the layer with the largest ratio has 1. code_compat: what the
    authors' code does instead: the variance runs over dimension 0 of each tensor, not over samples, nothing is normalised,
    batch-norm is left out; their threshold is 0.95.
    """

    threshold: float = 0.5
    code_compat: bool = False
    samples: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("selector.threshold", self.threshold, 0)
        in_range("selector.samples", self.samples, 2)

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        score = snr_of_the_code if self.code_compat else snr
        scores = score(model, task, costs, self.samples, generator(self.seed, "snr", task.index))
        groups = layers(model)
        return head(model).union(*(groups[name] for name, value in scores.items() if value > self.threshold))
