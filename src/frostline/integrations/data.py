"""A data set of another loop's, with its collator, as frostline's sources are."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from frostline.core.checks import UsageError
from frostline.core.objectives import IGNORED
from frostline.core.types import Batch


class DataSet:
    """Batches in any order, as `collate` makes them and `read` understands them, on the device of `model`."""

    nbytes = 0

    def __init__(self, data: Any, collate: Callable[[list[Any]], Any], read: Callable[..., Batch], model: nn.Module):
        if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
            raise UsageError(f"{type(data).__name__} has no length: expected a data set whose samples can be counted.")
        self.data, self.collate, self.read, self.model = data, collate, read, model
        self.length: int | None = None  # that batches of texts are filled up to

    def __len__(self) -> int:
        return len(self.data)

    @property
    def labels(self) -> Tensor:
        """All targets: a walk through the data."""
        found = [batch.y.cpu() for batch in self.batches(64)]
        if found[0].ndim == 1:
            return torch.cat(found)
        longest = max(y.shape[1] for y in found)
        return torch.cat([nn.functional.pad(y, (0, longest - y.shape[1]), value=IGNORED) for y in found])

    def batches(
        self, size: int, order: Tensor | None = None, start: int = 0, *, samples: bool = True
    ) -> Iterator[Batch]:
        """Yield batches; each costs what its samples take to collate."""
        device = next(self.model.parameters()).device
        order = torch.arange(len(self)) if order is None else order
        for rows in order[start * size :].split(size):
            if len(rows):
                inputs = self.collate([self.data[int(row)] for row in rows])
                inputs = tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, inputs)
                yield self.read(inputs) if self.length is None else self.read(inputs, self.length)
