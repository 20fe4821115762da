"""Where samples live: as tensors on the training device, or behind a DataLoader."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor

from frostline.core.digests import combined, row_digests
from frostline.core.types import Batch

PLACES = 40  # bits of a sample's id that say which row it is; those above them say of which task


def ids(task: Tensor | int, rows: Tensor) -> Tensor:
    """Return the ids of a task's rows, int64 [n]: unique in a stream whatever the tasks' data are."""
    return rows + (torch.as_tensor(task, dtype=torch.int64) << PLACES)


class TensorSource:
    """Samples of one task in a tensor that tasks may share; a batch is an index slice.

    x [N, ...] holds the samples, rows [n] are this task's, y [n, ...] their targets within the stream, task its
    number, or each row's, [n]. `transform` makes a batch what this task sees (a permutation of the pixels, a rotation); its
    attribute `key`, if it has one, tells it from others of its kind.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        rows: Tensor,
        task: int | Tensor,
        transform: Callable[[Tensor], Tensor] | None = None,
    ):
        self.x = x
        self.rows = rows.cpu()
        self.labels = y.cpu()
        self.transform = transform
        self.task = torch.full((len(rows),), task) if isinstance(task, int) else task
        self._ids = ids(self.task, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        label = self.labels[0].numel() * self.labels.element_size() if len(self) else 0
        return len(self) * (self.x[0].numel() * self.x.element_size() + label)

    def shares_samples(self, other: object) -> TypeGuard["TensorSource"]:
        """Tell whether another source's samples are rows of the same tensor, as they are."""
        return (
            isinstance(other, TensorSource)
            and self.x.data_ptr() == other.x.data_ptr()
            and self.x.shape == other.x.shape
            and self.transform is other.transform is None
        )

    def equals(self, other: object) -> bool:
        """Tell whether another source is the same samples with the same labels in the same order, as they are."""
        return (
            self.shares_samples(other) and torch.equal(self.rows, other.rows) and torch.equal(self.labels, other.labels)
        )

    def digest(self) -> str:
        """Return a digest of the samples, as they are learned from."""
        kind = self.transform if hasattr(self.transform, "__qualname__") else type(self.transform)
        changed = [getattr(kind, "__qualname__", ""), getattr(self.transform, "key", None)]
        return combined([row_digests(self.x)[self.rows], self.labels, *changed])

    def holds(self) -> dict[int, int]:
        """Return the digest of the whole data that the samples were chosen from, by what tells them from others."""
        return {self.x.data_ptr(): int(row_digests(self.x).sum())}

    def fetch(self, index: Tensor) -> Tensor:
        """Return the samples with these ids, of any task that shares them."""
        return self.x.index_select(0, index & ((1 << PLACES) - 1))

    def batches(
        self, size: int, order: Tensor | None = None, start: int = 0, *, samples: bool = True
    ) -> Iterator[Batch]:
        """Yield index slices; the order goes to the device in large pieces."""
        order = torch.arange(len(self)) if order is None else order
        for places in order[start * size :].split(256 * size):  # texts have many labels: all at once are gigabytes
            columns = [c[places].to(self.x.device) for c in (self.rows, self.labels, self.task, self._ids)]
            if len(places):
                yield from self._cut(columns, size, samples)

    def _cut(self, columns: Sequence[Tensor], size: int, samples: bool) -> Iterator[Batch]:
        for row, y, task, index in zip(*(column.split(size) for column in columns), strict=True):
            x = self.x.index_select(0, row) if samples else self.x.new_empty((len(y), 0))
            x = self.transform(x) if samples and self.transform is not None else x
            yield Batch(x, y, task, index)


class Drawn:
    """Samples that are drawn whenever they are wanted, always the same ones: a long stream that is synthetic takes no memory.

    draw: returns the `length` samples as a source. key: plain values that they are drawn from, their digest.
    """

    def __init__(self, draw: Callable[[], TensorSource], length: int, key: tuple[Any, ...]):
        self.draw, self.length, self.key = draw, length, key

    def __len__(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        return self.draw().nbytes

    @property
    def labels(self) -> Tensor:
        return self.draw().labels

    def digest(self) -> str:
        """Return a digest of what the samples are drawn from."""
        return combined(self.key)

    def batches(
        self, size: int, order: Tensor | None = None, start: int = 0, *, samples: bool = True
    ) -> Iterator[Batch]:
        """Yield index slices of what is drawn for this walk."""
        yield from self.draw().batches(size, order, start, samples=samples)


class MemorySource:
    """What a method keeps, as data to learn from: the samples of a batch with their columns and their own ids."""

    def __init__(self, batch: Batch):
        self.batch = batch
        self.labels = batch.y.cpu()

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.batch.tensors().values())

    def digest(self) -> str:
        """Return a digest of the samples with all their columns."""
        return combined(self.batch.tensors().values())

    def batches(
        self, size: int, order: Tensor | None = None, start: int = 0, *, samples: bool = True
    ) -> Iterator[Batch]:
        """Yield rows of the batch."""
        order = torch.arange(len(self)) if order is None else order
        for rows in order[start * size :].to(self.batch.y.device).split(size):
            if len(rows):
                part = self.batch.rows(rows)
                yield part if samples else replace(part, x=part.x.new_empty((len(part), 0)))
