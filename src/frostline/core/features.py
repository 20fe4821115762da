"""Features: what a net's head is given."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import UsageError
from frostline.core.scope import evaluating, with_head
from frostline.core.types import Batch, Source


def needs_linear_head(name: str, model: nn.Module) -> None:
    """Raise UsageError for a model whose features nobody can find: one without a linear layer called `head`."""
    if not isinstance(getattr(model, "head", None), nn.Linear):
        raise UsageError(
            f"strategy={name}: {type(model).__name__} has no linear layer called `head` whose input could be "
            "classified. Expected one: in a net of your own, self.head = nn.Linear(...)."
        )


def features(model: nn.Module, source: Source, size: int = 256) -> Iterator[tuple[Tensor, Batch]]:
    """Yield the features [B, D] of the source's batches, in its own order, in eval mode and without gradient."""
    with torch.no_grad(), evaluating(model), with_head(model, nn.Identity()):
        for batch in source.batches(size):
            yield model(batch.x), batch


def class_sums(model: nn.Module, source: Source) -> Tensor:
    """Return each class's sum of features of length 1, the mean's direction, [C, D]; zeros for a class without samples."""
    weight = model.get_parameter("head.weight")
    sums = torch.zeros_like(weight, requires_grad=False)
    for z, batch in features(model, source):
        sums.index_add_(0, batch.y, F.normalize(z.float()))
    return sums


class Overheard:
    """The features of the forward passes that go by: `learned` of the last with gradients, `latest` of the last of all."""

    def __init__(self) -> None:
        self.learned = self.latest = torch.zeros(0)

    @contextmanager
    def at(self, model: nn.Module) -> Iterator[None]:
        """Listen to what the model's head is given, for the block."""

        def hear(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.latest = inputs[0]
            if torch.is_grad_enabled():
                self.learned = inputs[0]

        handle = model.get_submodule("head").register_forward_pre_hook(hear)
        try:
            yield
        finally:
            handle.remove()
            self.learned = self.latest = torch.zeros(0)
