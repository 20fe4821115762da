"""Memory-aware synapses: a weight matters by how much the output moves with it."""

from dataclasses import dataclass
from typing import ClassVar

from frostline.core.checks import in_range
from frostline.core.importance import probe, sensitivity
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.types import Task
from frostline.strategies.quadratic import Quadratic


@dataclass
class MAS(Quadratic):
    """Add strength * sum_i Omega_i (theta_i - theta*_i)^2 to the loss (Aljundi et al. 2018, arXiv 1711.09601).

    Omega_i is the mean over samples of |d |f(x)|^2 / d theta_i| for the logits f, summed over tasks; no label is needed.
    There is no factor 1/2, as in the paper. The authors' code takes the absolute value of a batch's summed gradient, in which
    samples cancel; here it is each sample's own, as in the paper. decay: of the old importance, 1 as in the paper. samples:
    of the task it is estimated from, all where None. Stores two numbers a weight. Adds a pass over the weights to a step.
    """

    name: ClassVar[str] = "mas"

    strength: float = 1.0
    decay: float = 1.0
    samples: int | None = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.mas.decay", self.decay, 0, 1)
        in_range("strategy.mas.samples", self.samples, 1)

    def after_task(self, scope: Scope, task: Task) -> None:
        """Estimate how far the output moves with each weight."""
        found = sensitivity(scope.model, task, probe(task, self.samples, generator(self.seed, "mas", task.index)))
        for name, p in scope.model.named_parameters():
            old = self.importance.get(name)
            self.importance[name] = found[name] if old is None else self.decay * old + found[name]
            self.centre[name] = p.detach().clone()
