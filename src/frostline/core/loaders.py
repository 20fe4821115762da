"""Samples behind a DataLoader: read, decoded and batched as they are needed."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from frostline.core.checks import UsageError
from frostline.core.digests import combined
from frostline.core.rng import generator
from frostline.core.sources import ids
from frostline.core.types import Batch

WORTH_WORKERS_S = 3.0  # of reading, from which on worker processes pay


class LoaderSource:
    """Samples of one task that do not fit in memory: read, decoded and batched by DataLoader workers.

    dataset: any map-style Dataset of (x tensor, label); rows [n] are this task's, y [n] their labels within the stream.
    random: a sample is another one each time that it is read. workers: processes that read, None for as many as pay, at
    `seconds` a sample.
    """

    def __init__(
        self,
        dataset: Dataset,
        y: Tensor,
        rows: Tensor,
        task: int | Tensor,
        *,
        device: torch.device | str = "cpu",
        workers: int | None = 0,
        sample_bytes: int = 0,
        random: bool = False,
        seconds: float = 0.0,
    ):
        self.dataset = dataset
        self.labels = y.cpu()
        self.rows = rows.cpu()
        self.task = torch.full((len(rows),), task) if isinstance(task, int) else task
        self.device = torch.device(device)
        self.workers = workers
        self.sample_bytes = sample_bytes
        self.random = random
        self.seconds = seconds

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        return len(self) * (self.sample_bytes + 8)

    def _workers(self, samples: int) -> int:
        """Return how many processes read so many samples: none for what takes less than starting them, or on two cores."""
        if self.workers is not None:
            return self.workers
        cores = os.cpu_count() or 1
        return 0 if cores <= 2 or samples * self.seconds < WORTH_WORKERS_S else min(8, cores // 2)

    def digest(self) -> str:
        """Return a digest of the labels and of what the data set says of its samples, or else of some of the samples."""
        own = getattr(self.dataset, "digest", None)
        if callable(own):
            return combined([self.labels, own(self.rows.tolist())])
        some = [] if self.random else self.rows[:: -(-len(self) // 16)].tolist()
        return combined([self.labels, self.rows, *(self.dataset[row][0] for row in some)])

    def holds(self) -> dict[int, int]:
        """Return the digest of the whole data set, where it says one."""
        own = getattr(self.dataset, "digest", None)
        return {id(self.dataset): int(own(range(len(self.dataset)))[:16], 16)} if callable(own) else {}  # type: ignore[arg-type]

    def batches(
        self, size: int, order: Tensor | None = None, start: int = 0, *, samples: bool = True
    ) -> Iterator[Batch]:
        """Yield the same batches as TensorSource would; the labels and ids never leave this process."""
        order = torch.arange(len(self)) if order is None else order
        parts = list(order[start * size :].split(size)) if len(order) > start * size else []
        if samples:
            workers = self._workers(len(order) - start * size)
            noise = generator("loader", start, *order[:2].tolist())  # torch's own is the model's
            read = self._read([self.rows[part].tolist() for part in parts], workers, noise)
        else:
            read = (torch.empty((len(part), 0)) for part in parts)
        for part, x in zip(parts, _in_short(read), strict=True):
            task, rows = self.task[part], self.rows[part]
            yield Batch(x, self.labels[part], task, ids(task, rows)).to(self.device)

    def _read(self, batches: list[list[int]], workers: int, noise: torch.Generator) -> Iterator[Tensor]:
        """Yield the samples of each batch; the processes that read the same data set before are asked again.

        Starting a few takes as long as reading hundreds of images, and a stream of T tasks is evaluated T * T / 2 times.
        Samples that may differ at each reading want new ones, whose draws follow from `noise` alone: these are all but
        those of a data set that says a digest of itself.
        """
        pinned = self.device.type == "cuda"
        lasting = workers > 0 and not self.random and callable(getattr(self.dataset, "digest", None))
        wanted = (self.dataset, workers, pinned)
        before, plan, loader = _idle.pop() if _idle and lasting else (None, [], None)
        if loader is None or before != wanted:
            plan = []
            loader = DataLoader(
                self.dataset,
                batch_sampler=plan,
                num_workers=workers,
                collate_fn=_stack,
                pin_memory=pinned,
                generator=noise,
                persistent_workers=lasting,
            )
        plan[:] = batches  # the loader goes through it anew at each reading
        yield from loader
        if lasting:
            _idle[:] = [(wanted, plan, loader)]


# At most one: a loader whose processes wait for the next reading, what it reads, and the plan that it goes by.
_idle: list[tuple[tuple, list[list[int]], DataLoader]] = []


def _in_short(read: Iterable[Any]) -> Iterator[Any]:
    """Yield what is read; say what a worker refused in its own words, without its traceback."""
    try:
        yield from read
    except UsageError as error:
        raise UsageError(str(error).rpartition("UsageError: ")[2].strip()) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise UsageError(f"{reason} Perhaps it wanted more memory than there is: stream.workers=0 has none.") from error


def _stack(samples: Sequence[tuple[Tensor, Any]]) -> Tensor:
    return torch.stack([x for x, _ in samples])
