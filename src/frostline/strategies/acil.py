"""ACIL: ridge regression that is brought up to date, never solved again."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range
from frostline.core.rng import generator
from frostline.strategies.closed_form import ClosedForm, linear, one_hot
from frostline.strategies.ranpac import Random, projected


@dataclass
class ACIL(ClosedForm):
    """Keep R = (H^T H + ridge I)^-1 and W = R H^T Y, and bring both up to date with each batch (Zhuang et al. 2022).

    arXiv 2205.14922. H = relu(features x a random matrix), `projection` columns, 0 for the features as they are. By
    Woodbury's identity a batch of B costs a B x B solve; what comes out is the ridge regression on all data at once, up to
    rounding, which is why both are held in double precision. Stores M x M + M x C numbers of 8 bytes.
    """

    name: ClassVar[str] = "acil"
    keeps = ("inverse", "weight", "wide")

    projection: int = 8192
    ridge: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.acil.projection", self.projection, 0)
        in_range("strategy.acil.ridge", self.ridge, 0, above=True)
        self.inverse, self.weight = torch.zeros(0, 0), torch.zeros(0, 0)
        self.wide = 0  # features
        self._matrix: Tensor | None = None

    def matrix(self, like: Tensor) -> Tensor | None:
        """Return the random matrix [D, M], drawn from the seed; None where features stay as they are."""
        if self.projection and self._matrix is None:
            drawn = torch.randn(self.wide, self.projection, generator=generator(self.seed, "acil"))
            self._matrix = drawn.to(like.device)
        return self._matrix

    def learn(self, z: Tensor, y: Tensor, classes: int) -> None:
        self.wide = z.shape[1]
        h = projected(z, self.matrix(z)).double()
        hot = one_hot(y, classes, h)
        if not len(self.inverse):
            self.inverse = torch.eye(h.shape[1], dtype=h.dtype, device=h.device) / self.ridge
            self.weight = h.new_zeros(h.shape[1], classes)
        seen = self.inverse @ h.T  # [M, B]
        eye = torch.eye(len(h), dtype=h.dtype, device=h.device)
        gain = torch.linalg.solve(eye + h @ seen, seen.T).T
        self.inverse = self.inverse - gain @ seen.T
        self.weight = self.weight + gain @ (hot - h @ self.weight)

    def classifier(self) -> nn.Module | None:
        if not len(self.weight):
            return None
        layer, matrix = linear(self.weight.T.float()), self.matrix(self.weight)
        return layer if matrix is None else nn.Sequential(Random(matrix), layer)
