"""Activations after the first stages of a model, one row a sample: in memory or in a file."""

import itertools
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from frostline.core.checks import UsageError
from frostline.core.structure import Staged, is_staged, run_stages
from frostline.core.tensors import digest
from frostline.core.types import Batch, Task
from frostline.costs import CostMeter
from frostline.costs.flops import count_flops
from frostline.loop.run import Run
from frostline.streams.augmentation import Augmentation

CACHE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def frost_line(model: Staged) -> int:
    """Return how many stages come before the first that changes, with the model's scope thawed."""
    for number, stage in enumerate(model.stages()):
        moving = any("running_mean" in m._buffers and m.training for m in stage.modules())
        if moving or any(p.requires_grad for p in stage.parameters()):
            return number
    return len(model.stages())


def prefix_digest(model: Staged, line: int) -> str:
    """Return a digest of everything that the first `line` stages hold."""
    stages = enumerate(model.stages()[:line])
    return digest({f"{number}.{name}": value for number, stage in stages for name, value in stage.state_dict().items()})


@dataclass
class Cache:
    """Activations after `line` stages, one row a sample and variant; in memory, or in a file where that is too much."""

    run: Run
    line: int
    views: int

    def __post_init__(self) -> None:
        assert is_staged(self.run.model)
        self.model, self.settings, self.device = self.run.model, self.run.settings, self.run.device
        self.digest = prefix_digest(self.model, self.line)
        self._asked: list[Tensor] = [torch.zeros(1, dtype=torch.int64, device=self.device)]  # rows not looked at so far
        self.count = 0
        self.in_file = False
        self._parts: list[Tensor] = []
        self._single = True
        self._dtypes: list[torch.dtype] = []

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take."""
        return sum(part[:-1].numel() * part.element_size() for part in self._parts)

    def fill(
        self,
        task: Task,
        remembered: list[Batch],
        augment: Augmentation,
        room: int = 0,
        old: "Cache | None" = None,
        meter: CostMeter | None = None,
    ) -> None:
        """Compute every row, from an older cache with fewer stages where there is one; charge the meter's open phase.

        room: for at least so many samples; a memory may have dropped some by now that it held when the task began.
        """
        if remembered:  # a memory may hold the task's own samples
            own = torch.cat([b.index for b in task.train.batches(2**16, samples=False)])
            remembered = [batch.rows(~torch.isin(batch.index, own)) for batch in remembered]
        room = max(room, len(task.train) + sum(map(len, remembered)))
        size = self.run.eval_batch_size
        counted: dict[int, int] = {}  # operations by size of chunk, each counted once, outside the bill
        ids: list[Tensor] = []
        for view in range(self.views):
            place = view * room
            for batch in _chunks(itertools.chain(task.train.batches(size, samples=old is None), remembered), size):
                first, x = (0, augment(batch.x)) if old is None else (old.line, old.read(batch.index, view))
                if meter is not None:
                    if len(batch) not in counted:
                        with meter.paused(), self.run.casting():
                            work = partial(run_stages, self.model, first, self.line, x)
                            counted[len(batch)] = count_flops(work, meter.uncounted)
                    meter.step(len(batch), counted[len(batch)])
                with self.run.casting():
                    state = run_stages(self.model, first, self.line, x)
                if not self._parts:
                    self._allocate(room * self.views, state)
                    self._single = len(state) == 1
                for part, value in zip(self._parts, state, strict=True):
                    part[place : place + len(batch)] = value.to(part.device, part.dtype)
                place += len(batch)
                if view == 0:
                    ids.append(batch.index)
        self._ids, self._rows = torch.cat(ids).sort(stable=True)
        self.count = room

    def read(self, index: Tensor, view: int | None = None) -> Tensor | tuple[Tensor, ...]:
        """Return the rows of the samples with these ids, each of a variant drawn at random unless one is named."""
        place = torch.searchsorted(self._ids, index).clamp_(max=len(self._ids) - 1)
        nowhere = self.count * self.views
        rows = torch.where(self._ids[place] == index, self._rows[place], nowhere)
        self._asked.append(rows)  # looked at when the stretch ends: no waiting here, and no work
        if len(self._asked) > 1024:
            self._asked = [torch.cat(self._asked).amax(0, keepdim=True)]
        if self.views > 1:
            drawn = torch.randint(self.views, rows.shape, device=rows.device) if view is None else view
            rows = (rows + self.count * drawn).clamp(max=nowhere)
        parts = tuple(
            part.index_select(0, rows.to(part.device)).to(self.device, dtype)
            for part, dtype in zip(self._parts, self._dtypes, strict=True)
        )
        return parts[0] if self._single else parts

    def missed(self) -> bool:
        """Tell whether any id that was read had no row; what came back for it was not a number."""
        return int(torch.cat(self._asked).max()) == self.count * self.views

    def _allocate(self, rows: int, state: tuple[Tensor, ...]) -> None:
        self._dtypes = [value.dtype for value in state]
        wanted = CACHE_DTYPES[self.settings.prefix_cache_dtype]
        dtypes = [wanted if d.is_floating_point else d for d in self._dtypes]
        shapes = [(rows + 1, *value.shape[1:]) for value in state]  # the last row is for ids that are not here
        size = sum(torch.Size(shape).numel() * d.itemsize for shape, d in zip(shapes, dtypes, strict=True))
        self.in_file = size > self.settings.prefix_cache_gib * 2**30
        for shape, dtype in zip(shapes, dtypes, strict=True):
            if self.in_file:
                part = _file_tensor(shape, dtype, self.run.folder)
            else:
                part = torch.empty(shape, dtype=dtype, device=self.device)
            part[rows] = torch.nan if dtype.is_floating_point else 0
            self._parts.append(part)


def _chunks(batches: Iterable[Batch], size: int) -> Iterable[Batch]:
    """Yield the batches in pieces of at most `size` samples."""
    for batch in batches:
        for first in range(0, len(batch), size):
            yield batch.rows(slice(first, first + size))


def _file_tensor(shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None) -> Tensor:
    """Return a tensor in a memory-mapped file that has no name any more: it goes with the process, however that ends."""
    count = torch.Size(shape).numel()
    where = folder or Path(tempfile.gettempdir())
    free = shutil.disk_usage(where).free
    if count * dtype.itemsize > 0.9 * free:
        raise UsageError(
            f"The prefix cache needs {count * dtype.itemsize / 2**30:.1f} GiB on disk and {free / 2**30:.1f} GiB are free in "
            f"{where}. Use trainer.prefix_cache_dtype=float16, a larger trainer.prefix_cache_gib, or trainer.prefix_cache=off."
        )
    with tempfile.NamedTemporaryFile(dir=where, prefix=".prefix-cache-") as f:
        return torch.from_file(f.name, shared=True, size=count, dtype=dtype).view(shape)
