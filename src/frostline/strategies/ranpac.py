"""RanPAC: ridge regression on random features."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from frostline.core.checks import UsageError, in_range
from frostline.strategies.closed_form import one_hot
from frostline.strategies.random_features import RandomFeatures

RIDGES = [10.0**power for power in range(-8, 10)]  # the authors'


@dataclass
class RanPAC(RandomFeatures):
    """Solve W = (H^T H + ridge I)^-1 H^T Y for random features H (McDonnell et al. 2023, arXiv 2307.02251).

    ridge: None takes the power of ten with the least squared error on every fifth sample of the task, from a solution that has
    not seen these, as the authors' code does; what then answers has seen all. Adds a pass and a solve a task and nothing to a
    step. Stores M x M + 2 M x C numbers.
    """

    name: ClassVar[str] = "ranpac"
    keeps = (*RandomFeatures.keeps, "gram", "targets", "held_gram", "held_targets", "held", "chosen")

    ridge: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.ranpac.ridge", self.ridge, 0, above=True)
        self.gram, self.targets = torch.zeros(0, 0), torch.zeros(0, 0)
        self.held_gram, self.held_targets = torch.zeros(0, 0), torch.zeros(0, 0)  # of this task's every fifth sample
        self.held = 0  # samples of this task so far
        self.chosen = 0.0

    def learn(self, z: Tensor, y: Tensor, classes: int) -> None:
        h, hot = self.features(z), one_hot(y, classes, z)
        if not len(self.gram):
            self.gram, self.targets = h.new_zeros(h.shape[1], h.shape[1]), h.new_zeros(h.shape[1], classes)
        held = (torch.arange(len(y), device=y.device) + self.held) % 5 == 4
        self.held += len(y)
        if self.ridge is not None:
            held = torch.zeros_like(held)
        elif not len(self.held_gram):
            self.held_gram, self.held_targets = torch.zeros_like(self.gram), torch.zeros_like(self.targets)
        for rows, gram, targets in ((~held, self.gram, self.targets), (held, self.held_gram, self.held_targets)):
            if len(gram):
                gram.addmm_(h[rows].T, h[rows])
                targets.addmm_(h[rows].T, hot[rows])

    def solve(self) -> None:
        self.chosen = self.ridge if self.ridge is not None else self._best()
        if len(self.held_gram):
            self.gram, self.targets = self.gram + self.held_gram, self.targets + self.held_targets
            self.held_gram, self.held_targets, self.held = torch.zeros(0, 0), torch.zeros(0, 0), 0
        ridges = [self.chosen] if self.ridge is not None else [r for r in RIDGES if r > self.chosen]
        found = next(solutions(self.gram.double(), self.targets.double(), [self.chosen, *ridges]), None)
        if found is None:
            raise UsageError(
                f"strategy.ranpac.ridge={self.ridge}: the features are too much alike. Expected a larger one."
            )
        self.chosen, weight = found  # sums in single precision may want a larger ridge than was best
        self.weight = weight.T.float().contiguous()

    def _best(self) -> float:
        """Return the ridge with the least squared error on what was held out: |Y|^2 - 2 tr W'H'Y + tr W'H'HW, but for |Y|^2."""
        if self.held < 5:
            return self.chosen or 1.0  # none was held out
        errors = {
            ridge: float((W * (self.held_gram @ W - 2 * self.held_targets)).sum())
            for ridge, W in solutions(self.gram, self.targets, RIDGES)
        }
        return min(errors, key=errors.__getitem__)


def solutions(gram: Tensor, targets: Tensor, ridges: list[float]) -> Iterator[tuple[float, Tensor]]:
    """Yield each ridge with its (gram + ridge I)^-1 targets, in the precision given; left out where there is none."""
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for ridge in ridges:
        factor, failed = torch.linalg.cholesky_ex(gram + ridge * eye)
        if not int(failed):
            yield ridge, torch.cholesky_solve(targets, factor)
