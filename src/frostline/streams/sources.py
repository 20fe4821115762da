"""Where samples live: as tensors on the training device, or behind a DataLoader."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from frostline.types import Batch


class TensorSource:
    """Samples of one task in a tensor that all tasks share; a batch is an index slice.

    x [N, ...] holds every task's samples, rows [n] are this task's, y [n] their labels within the stream. `transform`
    makes a batch what this task sees (a permutation of the pixels, a rotation).
    """

    def __init__(
        self, x: Tensor, y: Tensor, rows: Tensor, task: int, transform: Callable[[Tensor], Tensor] | None = None
    ):
        self.x = x
        self.rows = rows
        self.labels = y.cpu()
        self.transform = transform
        self._y = y.to(x.device)
        self._task = torch.full((len(rows),), task, device=x.device)
        self._first_id = task * len(x)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        return len(self) * (self.x[0].numel() * self.x.element_size() + self._y.element_size())

    def shares_samples(self, other: object) -> bool:
        """Tell whether another source's samples are rows of the same tensor, as they are, under the same ids."""
        return (
            isinstance(other, TensorSource)
            and self.x.data_ptr() == other.x.data_ptr()
            and self.x.shape == other.x.shape
            and self._first_id == other._first_id
            and self.transform is other.transform is None
        )

    def fetch(self, index: Tensor) -> Tensor:
        """Return the samples with these ids."""
        return self.x.index_select(0, index - self._first_id)

    def batches(
        self, size: int, order: Tensor | None = None, start: int = 0, *, samples: bool = True
    ) -> Iterator[Batch]:
        """Yield index slices; the order goes to the device once."""
        rows, y = self.rows, self.labels
        if order is not None:
            rows, y = rows[order], y[order]
        rows, y = rows.to(self.x.device), y.to(self.x.device)
        rows, y = rows[start * size :], y[start * size :]
        if not len(rows):
            return
        columns = (rows, y, self._task[: len(rows)], rows + self._first_id)  # cut up once an epoch, not once a step
        for row, label, task, index in zip(*(column.split(size) for column in columns), strict=True):
            x = self.x.index_select(0, row) if samples else self.x.new_empty((len(label), 0))
            x = self.transform(x) if samples and self.transform is not None else x
            yield Batch(x, label, task, index)


class LoaderSource:
    """Samples of one task that do not fit in memory: read, decoded and batched by DataLoader workers.

    dataset: any map-style Dataset of (x tensor, label); rows [n] are this task's, y [n] their labels within the stream.
    """

    def __init__(
        self,
        dataset: Dataset,
        y: Tensor,
        rows: Tensor,
        task: int,
        *,
        device: torch.device | str = "cpu",
        workers: int = 0,
        sample_bytes: int = 0,
    ):
        self.dataset = dataset
        self.labels = y.cpu()
        self.rows = rows.cpu()
        self.task = task
        self.device = torch.device(device)
        self.workers = workers
        self.sample_bytes = sample_bytes

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        return len(self) * (self.sample_bytes + 8)

    def batches(
        self, size: int, order: Tensor | None = None, start: int = 0, *, samples: bool = True
    ) -> Iterator[Batch]:
        """Yield the same batches as TensorSource would; the labels and ids never leave this process."""
        order = torch.arange(len(self)) if order is None else order
        parts = list(order[start * size :].split(size)) if len(order) > start * size else []
        read: Any = (
            [torch.empty((len(part), 0)) for part in parts]
            if not samples
            else DataLoader(
                self.dataset,
                batch_sampler=[self.rows[part].tolist() for part in parts],
                num_workers=self.workers,
                collate_fn=_stack,
                pin_memory=self.device.type == "cuda",
            )
        )
        first_id = self.task * len(self.dataset)  # type: ignore[arg-type]
        for part, x in zip(parts, read, strict=True):
            task = torch.full((len(part),), self.task)
            yield Batch(x, self.labels[part], task, self.rows[part] + first_id).to(self.device)


def _stack(samples: Sequence[tuple[Tensor, Any]]) -> Tensor:
    return torch.stack([x for x, _ in samples])
