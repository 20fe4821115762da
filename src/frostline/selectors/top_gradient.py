"""The layers that the new task pulls at hardest."""

from dataclasses import dataclass

from torch import nn

from frostline.core.checks import one_of
from frostline.core.importance import ESTIMATES
from frostline.core.rng import generator
from frostline.core.structure import head
from frostline.core.types import Task
from frostline.costs import TaskCosts
from frostline.selectors.scores import best_under_share, fisher
from frostline.selectors.under_share import UnderShare


@dataclass
class TopGradient(UnderShare):
    """Take the layers with the largest mean squared per-example gradient per parameter.

    labels: 'empirical' takes the data's labels; 'sampled' draws them from the model and 'exact' sums over classes, which
    makes the score the Fisher information (see importance.squared_gradients).
    """

    labels: str = "empirical"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("selector.labels", self.labels, ESTIMATES)

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        rng = generator(self.seed, "top gradient", task.index)
        scores = fisher(model, task, costs, self.samples, rng, self.labels)
        return best_under_share(model, scores, head(model), self.fraction)
