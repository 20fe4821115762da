"""The frozen prefix: stages before the frost line compute the same for a sample in every epoch, so compute it once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from frostline.activations import Cache, frost_line, prefix_digest
from frostline.augmentation import Augmentation
from frostline.checks import UsageError
from frostline.costs import CostMeter
from frostline.run import Run, Settings
from frostline.scope import Scope, Staged, run_stages
from frostline.types import Batch, Task


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
        self._tail: Sequence[nn.Module] = ()
        self._head: Any = None
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
        with self.run.casting():
            if self.cache is None:
                return self.run.model(self.augment(batch.x), mask).float()
            state = self.cache.read(batch.index)
            for stage in self._tail:
                state = stage(state)
            return self._head(state, mask).float()

    def entrance(self, batch: Batch) -> Tensor | tuple[Tensor, ...]:
        """Return what the first stage that runs takes: the samples, or cached activations."""
        return self.augment(batch.x) if self.cache is None else self.cache.read(batch.index)

    @property
    def random(self) -> bool:
        """Whether what a batch enters as is drawn at random."""
        return bool(self.augment) if self.cache is None else self.cache.views > 1

    def open(self, scope: Scope, epochs_left: float) -> None:
        """Build, lengthen or drop the cache, as this stretch's scope allows and repays."""
        if self._resumed:  # what a kill took is built again, as it was; the bill has it already
            self._resumed = False
            line, views = self.run.cached
            if line:
                self._build(line, views)
            return
        model, old = self.run.model, self.cache
        line, views, reason = self._decide(epochs_left)
        if old is not None and isinstance(model, Staged):
            if old.line > frost_line(model) or old.digest != prefix_digest(model, old.line):
                old = self.cache = None
            elif line <= old.line:
                return  # good as it is
        if line:
            with self.run.meter.phase("cache", self.task.index) as row:
                self._build(line, views, old, self.run.meter)
                row.stored_bytes = self.nbytes
            self._note({"used": True, **self._facts(scope)})
        elif old is None:
            self._note({"used": False, "reason": reason})
        self.run.cached = [self.line, max(1, views)]

    def _build(self, line: int, views: int, old: Cache | None = None, meter: CostMeter | None = None) -> None:
        run = self.run
        assert isinstance(run.model, Staged)
        self.cache = Cache(run, line, views)
        self._tail, self._head = run.model.stages()[line:], run.model.head
        self.cache.fill(self.task, list(run.strategy.remembered() or ()), self.augment, old, meter)

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
        some = torch.arange(min(2, len(self.task.train)))  # an order of two: else all would be cut up for it
        two = next(iter(self.task.train.batches(2, some)))
        randomly = bool(self.augment) or _draws_random_numbers(model, line, two.x)
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


def _draws_random_numbers(model: Staged, line: int, x: Tensor) -> bool:
    cuda = x.device.type == "cuda"
    state = torch.cuda.get_rng_state if cuda else torch.get_rng_state
    with torch.random.fork_rng(devices=[x.device] if cuda else []):
        before = state()
        run_stages(model, 0, line, x)
        return not torch.equal(before, state())
