"""What a stream asks of a model: the loss, what counts as right, and the unit that losses are in."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import UsageError, in_range

PIECE = 2**24  # logits made at once where they are not wanted as a whole
IGNORED = -100  # a label that does not count, as in torch.nn.functional.cross_entropy


class Objective(ABC):
    """Outputs and targets in, losses and hits out; the first dimension is the sample."""

    unit: str

    @abstractmethod
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss over all targets that count, a scalar."""

    @abstractmethod
    def losses(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the same for each of S models at once: [S, B, ...] in, [S] out."""

    @abstractmethod
    def nll(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return each sample's negative log-likelihood [B], summed over its targets."""

    @abstractmethod
    def hits(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return which targets are right, bool, of y's shape; what is not asked is wrong."""

    @abstractmethod
    def draw(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return targets as the model itself would draw them."""

    def counted(self, y: Tensor) -> Tensor:
        """Return which targets count, bool, of y's shape."""
        return torch.ones_like(y, dtype=torch.bool)

    def asked(self, y: Tensor) -> Tensor:
        """Return which targets are right or wrong, bool, of y's shape; accuracy is a share of these."""
        return self.counted(y)


@dataclass(frozen=True)
class Classification(Objective):
    """Cross-entropy over the last dimension: one label a sample (logits [B, C], y [B]) or a token ([B, L, C], [B, L]).

    Targets of -100 do not count. Losses are in nats. whole: a sample is right when all its targets are, and asked once. Of a
    model that says what comes next that is exact match: greedy decoding gives the answer if and only if each of its tokens is
    the likeliest after those before it.
    """

    unit: str = "nats"
    whole: bool = False

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, -2), y.flatten(), ignore_index=IGNORED)

    def losses(self, logits: Tensor, y: Tensor) -> Tensor:
        each = self._each(logits, y).flatten(1)
        if y.ndim == 2:  # one label a sample, and labels of samples always count
            return each.mean(1)
        return each.sum(1) / self.counted(y).flatten(1).sum(1)

    def loss_in_pieces(self, features: Tensor, head: nn.Linear, y: Tensor) -> Tensor:
        """Return the loss of the logits that `head` makes of features [..., D], which are never there as a whole.

        Under autocast the products are in its dtype, and so is the loss of a step: three digits in bfloat16. Gradients are no
        coarser than those of the whole.
        """
        weight, bias, kind = head.weight, head.bias, features.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            features, weight, bias = (t if t is None else t.to(dtype) for t in (features, weight, bias))
        size = max(16, PIECE // len(head.weight))  # torch's own choice took thrice as long as the whole on a CPU
        return F.linear_cross_entropy(
            features.flatten(0, -2), weight, y.flatten(), linear_bias=bias, ignore_index=IGNORED,
            options=nn.LinearCrossEntropyOptions(batch_chunk_size=size),
        ).float()  # fmt: skip

    def nll(self, logits: Tensor, y: Tensor) -> Tensor:
        return self._each(logits, y).flatten(1).sum(1) if y.ndim > 1 else self._each(logits, y)

    def hits(self, logits: Tensor, y: Tensor) -> Tensor:
        if logits.shape[:-1] != y.shape:  # [B] beside [B, 1] would be every pair of them
            raise UsageError(
                f"Labels of shape {list(y.shape)} for logits of shape {list(logits.shape)}: expected {list(logits.shape[:-1])}."
            )
        right = logits.argmax(-1) == y
        return (right | ~self.counted(y)).all(-1, keepdim=True) & self.asked(y) if self.whole else right

    def draw(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        flat = logits.detach().flatten(0, -2).softmax(1).cpu()
        drawn = torch.multinomial(flat, 1, generator=generator).view(logits.shape[:-1])
        return drawn.to(logits.device)

    def counted(self, y: Tensor) -> Tensor:
        return y != IGNORED

    def asked(self, y: Tensor) -> Tensor:
        counted = self.counted(y)
        return counted & (counted.cumsum(-1) == counted.sum(-1, keepdim=True)) if self.whole else counted

    def _each(self, logits: Tensor, y: Tensor) -> Tensor:
        flat = F.cross_entropy(logits.flatten(0, -2), y.flatten(), reduction="none", ignore_index=IGNORED)
        return flat.view(y.shape)


@dataclass(frozen=True)
class Regression(Objective):
    """Mean squared error; the likelihood is a normal one of variance 1/2, so that it is the squared error itself.

    tolerance: how far from the target a prediction still counts as right, which is what the accuracy matrix shows.
    """

    tolerance: float = 0.5
    unit: str = "squared error"

    def __post_init__(self) -> None:
        in_range("stream.tolerance", self.tolerance, 0, above=True)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return self._errors(logits, y).mean()

    def losses(self, logits: Tensor, y: Tensor) -> Tensor:
        return self._errors(logits, y).flatten(1).mean(1)

    def nll(self, logits: Tensor, y: Tensor) -> Tensor:
        return self._errors(logits, y).view(len(y), -1).sum(1)

    def hits(self, logits: Tensor, y: Tensor) -> Tensor:
        return (self._like(logits, y) - y).abs() <= self.tolerance

    def draw(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(logits.shape, generator=generator).to(logits.device)
        drawn = logits.detach() + noise * 0.5**0.5
        return drawn.squeeze(-1) if drawn.shape[-1] == 1 else drawn

    def _errors(self, logits: Tensor, y: Tensor) -> Tensor:
        return (self._like(logits, y) - y).square()

    @staticmethod
    def _like(logits: Tensor, y: Tensor) -> Tensor:
        if logits.ndim == y.ndim + 1 and logits.shape[-1] == 1:
            logits = logits.squeeze(-1)  # without this, [B, 1] - [B] would be every pair's difference
        if logits.shape != y.shape:
            raise UsageError(f"Predictions of shape {list(logits.shape)} for targets of shape {list(y.shape)}.")
        return logits


classification = Classification()
OBJECTIVES = {"classification": Classification, "regression": Regression}


def means_apart(each: Tensor, replayed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of each sample's loss [B] over those that came in, and over the replayed ones, 0 where there are none."""
    old = replayed.to(each.dtype)
    came = 1 - old
    return (each * came).sum() / came.sum(), (each * old).sum() / old.sum().clamp(min=1)
