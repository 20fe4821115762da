"""Several sources as one."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from frostline.core.digests import combined, source_digest
from frostline.core.loaders import LoaderSource
from frostline.core.sources import TensorSource
from frostline.core.types import Batch, Source


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


class Part:
    """Some samples of a source, `rows` [n] of them, as a source."""

    def __init__(self, source: Source, rows: Tensor):
        self.source, self.rows = source, rows
        self.labels = source.labels[rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        return self.source.nbytes * len(self.rows) // max(1, len(self.source))

    def digest(self) -> str:
        """Return a digest of the source and of what is taken of it."""
        return combined([source_digest(self.source), self.rows])

    def holds(self) -> dict[int, int]:
        """Return the digests of what the source was chosen from."""
        return getattr(self.source, "holds", dict)()

    def batches(
        self, size: int, order: Tensor | None = None, start: int = 0, *, samples: bool = True
    ) -> Iterator[Batch]:
        """Yield batches of the part."""
        return self.source.batches(size, self.rows if order is None else self.rows[order], start, samples=samples)
