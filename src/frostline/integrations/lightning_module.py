"""A LightningModule and its batches as frostline's are."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from frostline.core.checks import UsageError
from frostline.core.objectives import Classification, Objective
from frostline.core.scope import evaluating
from frostline.core.types import Batch


class Logits(nn.Module):
    """A LightningModule as frostline's models are: `forward`, or a part of it by name, makes logits of one tensor.

    pair: the inputs and the targets in a batch, by place or by key.
    """

    def __init__(self, module: LightningModule, network: str | None = None, pair: tuple[Any, Any] = (0, 1)):
        super().__init__()
        self.module, self.pair = module, pair
        if network is not None and network not in dict(module.named_modules()):
            raise UsageError(f"network={network!r}: {type(module).__name__} has no such part.")
        parts = [name for name, child in module.named_children() if next(child.parameters(), None) is not None]
        has_forward = type(module).forward is not LightningModule.forward
        self.network = network if network is not None else "" if has_forward or len(parts) != 1 else parts[0]
        self.known = network is not None or has_forward or len(parts) == 1

    def part(self) -> nn.Module:
        """Return what makes logits."""
        return self.module.get_submodule(self.network)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        if not self.known:
            raise UsageError(
                f"{type(self.module).__name__} has no forward and several parts. Expected network=, the name of the part that "
                "makes logits of a batch's inputs."
            )
        out = self.part()(x)
        if not isinstance(out, Tensor):
            raise UsageError(
                f"{type(self.part()).__name__} gives out {type(out).__name__}: expected logits as one tensor, or network=, the "
                "name of a part that makes them of a batch's inputs."
            )
        return out

    def batch(self, batch: Any) -> Batch:
        """Return a batch of Lightning's as frostline's are."""
        try:
            x, y = (batch[key] for key in self.pair)
        except (KeyError, IndexError, TypeError) as error:
            raise UsageError(
                f"A batch is {type(batch).__name__}, and its inputs and targets are to be at {list(self.pair)} ({error!r}). "
                "Expected pair=, their places or keys in it."
            ) from error
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            raise UsageError(
                f"The inputs and targets of a batch are {type(x).__name__}, {type(y).__name__}: expected tensors."
            )
        places = torch.arange(len(y), device=y.device)
        return Batch(x, y, torch.zeros_like(places), places)

    def inputs(self, batch: Any, mixed: Batch) -> Any:
        """Return a batch of Lightning's with the samples of `mixed`."""
        if len(batch) > 2:
            raise UsageError(
                f"A batch has {len(batch)} parts, and replay knows inputs and targets: expected these two."
            )
        new = dict(zip(self.pair, (mixed.x, mixed.y), strict=True))
        return {**batch, **new} if isinstance(batch, Mapping) else [new.get(place) for place in range(len(batch))]

    def shape_and_classes(self, first: Batch, objective: Objective) -> tuple[tuple[int, ...], int]:
        """Return the shape of a sample and the number of logits; refuse what no method could work with."""
        if first.y.is_floating_point() and isinstance(objective, Classification):
            raise UsageError(f"Targets are {first.y.dtype}: expected classes, or objective='regression'.")
        try:
            with torch.no_grad(), evaluating(self):
                return tuple(first.x.shape[1:]), int(self(first.x).shape[-1])
        except RuntimeError as error:
            raise UsageError(
                f"{self.network or type(self.module).__name__} cannot make logits of a batch's inputs "
                f"{list(first.x.shape)} ({error}). Expected network=, the name of a part that can."
            ) from error
