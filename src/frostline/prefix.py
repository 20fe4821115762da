"""The frozen prefix: stages before the frost line compute the same for a sample in every epoch, so compute it once."""

import itertools
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from frostline.augmentation import Augmentation
from frostline.checks import UsageError
from frostline.memory import digest
from frostline.models import Staged
from frostline.run import CACHE_DTYPES, Run, Settings
from frostline.scope import Scope
from frostline.types import Batch, Task

CHUNK = 256  # samples whose activations are computed at once


def frost_line(model: Staged) -> int:
    """Return how many stages come before the first that changes, with the model's scope thawed."""
    for number, stage in enumerate(model.stages()):
        moving = any("running_mean" in m._buffers and m.training for m in stage.modules())
        if moving or any(p.requires_grad for p in stage.parameters()):
            return number
    return len(model.stages())


def check_settings(settings: Settings, model: nn.Module) -> None:
    """Raise UsageError where a cache is demanded that cannot be."""
    if settings.prefix_cache != "on":
        return
    if not isinstance(model, Staged):
        raise UsageError(
            f"trainer.prefix_cache=on: {type(model).__name__} has no stages() to cut it at. Expected a model that has, "
            "such as those of conf/model; or trainer.prefix_cache=auto."
        )
    if settings.augment and not settings.prefix_cache_views:
        raise UsageError(
            f"trainer.prefix_cache=on with trainer.augment={list(settings.augment)}: activations of random images are "
            "different in every epoch. Expected trainer.prefix_cache_views=4, say, to cache that many variants of each."
        )


class Prefix:
    """What a step runs before the frost line: the stages themselves, or a cache of what they put out.

    A cache lives for one task. It is used for another stretch of the task only if a digest of the frozen weights is
    still the same, and read by sample id (and variant), so it can never answer for other weights or other samples; an id
    that it does not hold is an error.
    """

    def __init__(self, run: Run, task: Task, *, resumed: bool):
        self.run, self.task = run, task
        self.augment = Augmentation(run.settings.augment)
        self.cache: Cache | None = None
        self._resumed = resumed

    @property
    def line(self) -> int:
        """The number of stages that are read from the cache."""
        return 0 if self.cache is None else self.cache.line

    @property
    def nbytes(self) -> int:
        """Bytes of the cached activations."""
        return 0 if self.cache is None else self.cache.nbytes

    def logits(self, batch: Batch, mask: Tensor | None) -> Tensor:
        """Return the logits of the batch, from its samples or from their cached activations."""
        model = self.run.model
        if self.cache is None:
            return model(self.augment(batch.x), mask)
        assert isinstance(model, Staged)
        state = self.cache.read(batch.index)
        for stage in model.stages()[self.line :]:
            state = stage(state)
        return model.head(state, mask)

    def open(self, scope: Scope, epochs_left: float) -> None:
        """Build, lengthen or drop the cache, as this stretch's scope allows and repays."""
        if self._resumed:  # what a kill took is built again, as it was; the bill has it already
            self._resumed = False
            if self.run.cached[0]:
                self._build(*self.run.cached, old=None)
            return
        model, old = self.run.model, self.cache
        line, views, reason = self._decide(epochs_left)
        if old is not None and isinstance(model, Staged):
            if old.line > frost_line(model) or old.digest != prefix_digest(model, old.line):
                old = self.cache = None
            elif line <= old.line:
                return  # good as it is
        if line:
            with self.run.meter.phase("cache", self.task.index, count=True) as row:
                self.run.meter.step(self._build(line, views, old))
                row.stored_bytes = self.nbytes
            self._note({"used": True, **self._facts(scope)})
        elif old is None:
            self._note({"used": False, "reason": reason})
        self.run.cached = [self.line, max(1, views)]

    def _build(self, line: int, views: int, old: "Cache | None") -> int:
        run = self.run
        assert isinstance(run.model, Staged)
        self.cache = Cache(run.model, line, views, run.settings, run.scratch, run.device)
        return self.cache.fill(self.task, list(run.strategy.remembered() or ()), self.augment, old)

    def _facts(self, scope: Scope) -> dict[str, object]:
        cache, model = self.cache, scope.model
        assert cache is not None
        assert isinstance(model, Staged)
        last = model.stages()[cache.line - 1]
        return {
            "frozen_stages": cache.line,
            "last_frozen": next(name for name, module in model.named_modules() if module is last),
            "samples": cache.count,
            "views": cache.views,
            "bytes": cache.nbytes,
            "where": "file" if cache.in_file else "memory",
        }

    def check(self) -> None:
        """Raise RuntimeError where a sample was asked for that the cache does not hold."""
        if self.cache is not None and self.cache.missed():
            raise RuntimeError(
                "A sample was not in the prefix cache: a strategy's `augment` returned samples "
                "that its `remembered` did not name. Use trainer.prefix_cache=off, or name them there."
            )

    def close(self) -> None:
        """Let go of the memory."""
        self.cache = None

    def _decide(self, epochs_left: float) -> tuple[int, int, str]:
        """Return how many stages to cache, in how many variants; 0 with the reason where none."""
        run, model = self.run, self.run.model
        mode, views = run.settings.prefix_cache, run.settings.prefix_cache_views
        if mode == "off":
            return 0, 0, "trainer.prefix_cache=off"
        if not isinstance(model, Staged):
            return 0, 0, f"{type(model).__name__} has no stages()"
        line = frost_line(model)
        if not any(True for stage in model.stages()[:line] for _ in stage.parameters()):
            return 0, 0, "no layer is frozen before the first that trains"
        if run.strategy.remembered() is None:
            return 0, 0, f"{type(run.strategy).__name__} changes batches without naming its samples in `remembered`"
        sample = next(iter(self.task.train.batches(2)))
        randomly = bool(self.augment) or _draws_random_numbers(model, line, sample.x)
        if randomly and not views:
            reason = "augmentation or dropout before the frost line is random, and trainer.prefix_cache_views=0"
            if mode == "on":
                raise UsageError(
                    f"trainer.prefix_cache=on: {reason}. Expected a number of variants to cache, such as 4."
                )
            return 0, 0, reason
        views = views if randomly else 1
        if mode == "auto" and epochs_left <= views:
            return 0, 0, "there is no later pass over the data to save"
        return line, views, ""

    def _note(self, note: dict[str, object]) -> None:
        notes = self.run.cache_notes
        if not notes or notes[-1]["task"] != self.task.index:
            notes.append({"task": self.task.index, "used": False})
        if note["used"] or not notes[-1]["used"]:  # a later stretch that cannot does not undo what an earlier one did
            notes[-1] = {"task": self.task.index, **note}


def prefix_digest(model: Staged, line: int) -> str:
    """Return a digest of everything that the first `line` stages hold."""
    stages = enumerate(model.stages()[:line])
    return digest({f"{number}.{name}": value for number, stage in stages for name, value in stage.state_dict().items()})


def _run(model: Staged, first: int, last: int, state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        for stage in model.stages()[first:last]:
            state = stage(state)
    return state if isinstance(state, tuple) else (state,)


def _draws_random_numbers(model: Staged, line: int, x: Tensor) -> bool:
    cuda = x.device.type == "cuda"
    state = torch.cuda.get_rng_state if cuda else torch.get_rng_state
    with torch.random.fork_rng(devices=[x.device] if cuda else []):
        before = state()
        _run(model, 0, line, x)
        return not torch.equal(before, state())


@dataclass
class Cache:
    """Activations after `line` stages, one row a sample and variant; in memory, or in a file where that is too much."""

    model: Staged
    line: int
    views: int
    settings: Settings
    scratch: Path | None
    device: torch.device

    def __post_init__(self) -> None:
        self.digest = prefix_digest(self.model, self.line)
        self._largest = torch.zeros((), dtype=torch.int64, device=self.device)  # row read so far
        self.count = 0
        self.in_file = False
        self._parts: list[Tensor] = []
        self._single = True
        self._dtypes: list[torch.dtype] = []

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take."""
        return sum(part[:-1].numel() * part.element_size() for part in self._parts)

    def fill(self, task: Task, remembered: list[Batch], augment: Augmentation, old: "Cache | None") -> int:
        """Compute every row, from an older cache with fewer stages where there is one; return the samples done."""
        room = len(task.train) + sum(map(len, remembered))
        ids: list[Tensor] = []
        for view in range(self.views):
            place = view * room
            for batch in _chunks(itertools.chain(task.train.batches(CHUNK), remembered)):
                if old is None:
                    state = _run(self.model, 0, self.line, augment(batch.x))
                else:
                    state = _run(self.model, old.line, self.line, old.read(batch.index, view))
                if not self._parts:
                    self._allocate(room * self.views, state)
                    self._single = len(state) == 1
                for part, value in zip(self._parts, state, strict=True):
                    part[place : place + len(batch)] = value.to(part.device, part.dtype)
                place += len(batch)
                if view == 0:
                    ids.append(batch.index)
        known = torch.cat(ids)
        self._slots = torch.full((int(known.max()) + 2,), room * self.views, device=self.device)
        self._slots[known] = torch.arange(room, device=self.device)
        self.count = room
        return room * self.views

    def read(self, index: Tensor, view: int | None = None) -> Tensor | tuple[Tensor, ...]:
        """Return the rows of the samples with these ids, each of a variant drawn at random unless one is named."""
        rows = self._slots[index.clamp(max=len(self._slots) - 1)]
        torch.maximum(self._largest, rows.amax(), out=self._largest)  # looked at when the stretch ends: no waiting here
        if self.views > 1:
            drawn = torch.randint(self.views, rows.shape, device=rows.device) if view is None else view
            rows = (rows + self.count * drawn).clamp(max=self.count * self.views)
        parts = tuple(
            part.index_select(0, rows.to(part.device)).to(self.device, dtype)
            for part, dtype in zip(self._parts, self._dtypes, strict=True)
        )
        return parts[0] if self._single else parts

    def missed(self) -> bool:
        """Tell whether any id that was read had no row; what came back for it was not a number."""
        return int(self._largest) == self.count * self.views

    def _allocate(self, rows: int, state: tuple[Tensor, ...]) -> None:
        self._dtypes = [value.dtype for value in state]
        wanted = CACHE_DTYPES[self.settings.prefix_cache_dtype]
        dtypes = [wanted if d.is_floating_point else d for d in self._dtypes]
        shapes = [(rows + 1, *value.shape[1:]) for value in state]  # the last row is for ids that are not here
        size = sum(torch.Size(shape).numel() * d.itemsize for shape, d in zip(shapes, dtypes, strict=True))
        self.in_file = size > self.settings.prefix_cache_gib * 2**30
        for shape, dtype in zip(shapes, dtypes, strict=True):
            if self.in_file:
                part = _file_tensor(shape, dtype, self.scratch)
            else:
                part = torch.empty(shape, dtype=dtype, device=self.device)
            part[rows] = torch.nan if dtype.is_floating_point else 0
            self._parts.append(part)


def _chunks(batches: Iterable[Batch]) -> Iterable[Batch]:
    """Yield the batches in pieces of at most CHUNK samples."""
    for batch in batches:
        for first in range(0, len(batch), CHUNK):
            part = slice(first, first + CHUNK)
            yield Batch(batch.x[part], batch.y[part], batch.task[part], batch.index[part])


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
