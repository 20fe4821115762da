"""ACIL: ridge regression that is brought up to date, never solved again."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from frostline.core.checks import in_range
from frostline.strategies.closed_form import one_hot
from frostline.strategies.random_features import RandomFeatures


@dataclass
class ACIL(RandomFeatures):
    """Keep R = (H^T H + ridge I)^-1 and W = R H^T Y of random features H, brought up to date by batch (Zhuang et al. 2022).

    arXiv 2205.14922. By Woodbury's identity a batch of B costs a B x B solve; what comes out is the ridge regression on all
    data at once, up to rounding, which is why both are held in double precision. Adds a pass and its solves a task and
    nothing to a step. Stores M x M + M x C numbers of 8 bytes.
    """

    name: ClassVar[str] = "acil"
    keeps = (*RandomFeatures.keeps, "inverse")

    projection: int = 8192
    ridge: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.acil.ridge", self.ridge, 0, above=True)
        self.inverse = torch.zeros(0, 0)

    def learn(self, z: Tensor, y: Tensor, classes: int) -> None:
        h = self.features(z).double()
        hot = one_hot(y, classes, h)
        if not len(self.inverse):
            self.inverse = torch.eye(h.shape[1], dtype=h.dtype, device=h.device) / self.ridge
            self.weight = h.new_zeros(classes, h.shape[1])
        seen = self.inverse @ h.T  # [M, B]
        eye = torch.eye(len(h), dtype=h.dtype, device=h.device)
        gain = torch.linalg.solve(eye + h @ seen, seen.T).T
        self.inverse = self.inverse - gain @ seen.T
        self.weight = self.weight + (gain @ (hot - h @ self.weight.T)).T
