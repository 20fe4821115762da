"""Random features: what RanPAC and ACIL make of a net's own before they solve."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range
from frostline.core.heads import Random, linear, projected
from frostline.core.rng import generator
from frostline.core.types import TaskStream
from frostline.costs.memory import needs_room
from frostline.strategies.closed_form import ClosedForm

MANY = 5000  # features to solve for
BYTES = 32  # of an M x M matrix that is solved for in double precision, with what is kept of it


@dataclass
class RandomFeatures(ClosedForm):
    """Classify relu(features x a random matrix), of `projection` columns, by a linear layer; 0: the features as they are.

    The matrix is not stored but drawn again from the seed.
    """

    keeps = ("weight", "wide")

    projection: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(f"strategy.{self.name}.projection", self.projection, 0)
        self.weight = torch.zeros(0, 0)  # [C, M]
        self.wide = 0  # features
        self._matrix: Tensor | None = None

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        super().check(model, stream)
        columns = self.projection or model.get_parameter("head.weight").shape[1]
        needs_room(
            f"strategy.{self.name}.projection={self.projection}: solving for {columns} features", BYTES * columns**2,
            next(model.parameters()).device, "a smaller one",
        )  # fmt: skip
        if columns > MANY and next(model.parameters()).device.type == "cpu":
            print(
                f"frostline: strategy.{self.name}.projection={columns}: solving for so many features takes minutes a task on a "
                f"CPU; strategy.{self.name}.projection=2000 takes seconds."
            )

    def matrix(self, like: Tensor) -> Tensor | None:
        """Return the random matrix [D, M]; None where features stay as they are."""
        if self.projection and self._matrix is None:
            drawn = torch.randn(self.wide, self.projection, generator=generator(self.seed, self.name))
            self._matrix = drawn.to(like.device)
        return self._matrix

    def features(self, z: Tensor) -> Tensor:
        """Return random features [B, M] of a net's own [B, D]."""
        self.wide = z.shape[1]
        return projected(z, self.matrix(z))

    def classifier(self) -> nn.Module | None:
        if not len(self.weight):
            return None
        layer, matrix = linear(self.weight.float()), self.matrix(self.weight)
        return layer if matrix is None else nn.Sequential(Random(matrix), layer)
