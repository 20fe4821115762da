"""Where samples live: as tensors on the training device, or behind a DataLoader."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from frostline.core.checks import UsageError
from frostline.core.digests import combined, row_digests, source_digest
from frostline.core.rng import generator
from frostline.core.types import Batch, Source

WORTH_WORKERS_S = 3.0  # of reading, from which on worker processes pay
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
        """Yield index slices; the order goes to the device once."""
        chosen = slice(start * size, None) if order is None else order[start * size :]
        columns = [c[chosen].to(self.x.device) for c in (self.rows, self.labels, self.task, self._ids)]
        if not len(columns[0]):
            return
        for part in zip(
            *(column.split(256 * size) for column in columns), strict=True
        ):  # a view each would take gigabytes
            yield from self._cut(part, size, samples)

    def _cut(self, columns: Sequence[Tensor], size: int, samples: bool) -> Iterator[Batch]:
        for row, y, task, index in zip(*(column.split(size) for column in columns), strict=True):
            x = self.x.index_select(0, row) if samples else self.x.new_empty((len(y), 0))
            x = self.transform(x) if samples and self.transform is not None else x
            yield Batch(x, y, task, index)


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
        read: Any = (
            [torch.empty((len(part), 0)) for part in parts]
            if not samples
            else DataLoader(
                self.dataset,
                batch_sampler=[self.rows[part].tolist() for part in parts],
                num_workers=self._workers(len(order) - start * size),
                collate_fn=_stack,
                pin_memory=self.device.type == "cuda",
                generator=generator("loader", start, *order[:2].tolist()),  # torch's own is the model's
            )
        )
        for part, x in zip(parts, _in_short(read), strict=True):
            task, rows = self.task[part], self.rows[part]
            yield Batch(x, self.labels[part], task, ids(task, rows)).to(self.device)


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


def joined(sources: Sequence[Source]) -> Source:
    """Return several sources as one: those of one tensor, or of one data set, are still such a source."""
    loaders = [s for s in sources if isinstance(s, LoaderSource)]
    if len(loaders) == len(sources) and all(s.dataset is loaders[0].dataset for s in loaders):
        labels, rows, tasks = (torch.cat([getattr(s, of) for s in loaders]) for of in ("labels", "rows", "task"))
        first = loaders[0]
        return LoaderSource(
            first.dataset, labels, rows, tasks, device=first.device, workers=first.workers, sample_bytes=first.sample_bytes,
            random=first.random, seconds=first.seconds,
        )  # fmt: skip
    parts = [s for s in sources if isinstance(s, TensorSource)]
    if len(parts) < len(sources) or not all(parts[0].shares_samples(s) for s in parts):
        return Joined(sources)
    labels, rows, tasks = (torch.cat([getattr(s, of) for s in parts]) for of in ("labels", "rows", "task"))
    return TensorSource(parts[0].x, labels, rows, tasks)


class Joined:
    """Several sources of any kind as one."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = list(sources)
        self._starts = torch.tensor([0] + [len(s) for s in sources]).cumsum(0)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for s in self.sources)

    @property
    def labels(self) -> Tensor:
        return torch.cat([s.labels for s in self.sources])

    def digest(self) -> str:
        """Return a digest of all sources."""
        return combined(map(source_digest, self.sources))

    def holds(self) -> dict[int, int]:
        """Return the digests of all that the sources were chosen from."""
        return {key: value for source in self.sources for key, value in getattr(source, "holds", dict)().items()}

    def batches(
        self, size: int, order: Tensor | None = None, start: int = 0, *, samples: bool = True
    ) -> Iterator[Batch]:
        """Yield mixed batches: each asks every source for its share, so no source is walked twice."""
        order = torch.arange(len(self)) if order is None else order
        owner = torch.bucketize(order, self._starts[1:], right=True)
        chunks = range(start * size, len(order), size)
        for position in chunks:
            part = slice(position, position + size)
            pieces = []
            for number in owner[part].unique().tolist():
                mine = order[part][owner[part] == number] - self._starts[number]
                pieces += list(self.sources[number].batches(len(mine), mine, samples=samples))
            batch = pieces[0]
            for piece in pieces[1:]:
                batch = batch.cat(piece)
            yield batch
