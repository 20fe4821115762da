"""FeCAM: each class has a shape of its own."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from frostline.core.checks import in_range, one_of
from frostline.core.heads import Mahalanobis, powered
from frostline.core.moments import ClassMoments
from frostline.core.types import TaskStream
from frostline.costs.memory import needs_room
from frostline.strategies.closed_form import ClosedForm


@dataclass
class FeCAM(ClosedForm):
    """Answer with the class whose mean is nearest in its own Mahalanobis distance (Goswami et al. 2023, arXiv 2309.14062).

    tukey: the power to which features are raised, sign kept, so that they look more like a normal distribution; 1 leaves
    them, as the authors do for transformers, whose features are negative too. shrink: the covariance gets shrink times its
    mean variance on the diagonal and shrink times its mean covariance beside it. correlation: of each class is divided by its
    deviations. covariance: 'class', or one that is 'shared'. normalise: features and means have length 1 when they are
    compared, as in the authors' code; the paper leaves it out. Where a covariance has no inverse, its pseudo-inverse takes
    its place, as in the authors' code. A logit is minus the squared distance. Stores C x D + C x D x D numbers.
    """

    name: ClassVar[str] = "fecam"
    keeps = ("moments",)

    tukey: float = 0.5
    shrink: float = 1.0
    correlation: bool = True
    covariance: str = "class"
    normalise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("strategy.fecam.tukey", self.tukey, 0, 1, above=True)
        in_range("strategy.fecam.shrink", self.shrink, 0)
        one_of("strategy.fecam.covariance", self.covariance, ("class", "shared"))
        self.moments = ClassMoments(self.covariance == "shared")
        self.inverse: Tensor | None = None  # of the covariances

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        super().check(model, stream)
        classes, width = model.get_parameter("head.weight").shape
        count = 1 if self.covariance == "shared" else classes
        needs_room(
            f"strategy.fecam.covariance={self.covariance}: {count} of {width} features, with their inverses,",
            28 * count * width**2, next(model.parameters()).device, "shared, or fewer features",
        )  # fmt: skip

    def learn(self, z: Tensor, y: Tensor, classes: int) -> None:
        self.moments.add(powered(z, self.tukey), y, classes)

    def restored(self) -> None:
        """Work the covariances' inverses out when they are asked for."""
        self.inverse = None

    def solve(self) -> None:
        counts = self.moments.counts.sum(0, keepdim=True) if self.covariance == "shared" else self.moments.counts
        S = self.moments.scatters / (counts - 1).clamp(min=1)[:, None, None]
        width = S.shape[1]
        diagonal = S.diagonal(dim1=1, dim2=2)
        variance = diagonal.mean(1)
        some = (S != 0).sum((1, 2)) - (diagonal != 0).sum(1)  # as in the authors' code: not features that never fire
        beside = (S.sum((1, 2)) - diagonal.sum(1)) / some.clamp(min=1)
        eye = torch.eye(width, device=S.device)
        S = S + self.shrink * (variance[:, None, None] * eye + beside[:, None, None] * (1 - eye))
        S = torch.where((counts > 1)[:, None, None], S, eye)  # one sample has no shape
        if self.correlation:
            deviation = S.diagonal(dim1=1, dim2=2).clamp(min=1e-12).sqrt()
            S = S / (deviation[:, :, None] * deviation[:, None, :])
        self.inverse = torch.linalg.pinv(S.double(), hermitian=True).float()

    def classifier(self) -> nn.Module | None:
        if not len(self.moments.counts):
            return None
        if self.inverse is None:
            self.solve()
        assert self.inverse is not None
        return Mahalanobis(self.moments.means, self.inverse, self.moments.counts > 0, self.tukey, self.normalise)
