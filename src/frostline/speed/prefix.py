"""The frozen prefix: stages before the frost line compute the same for a sample in every epoch, so compute it once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from frostline.core.checks import UsageError
from frostline.core.scope import Scope, evaluating
from frostline.core.step import Weights
from frostline.core.structure import Staged, is_staged, piped, run_stages
from frostline.core.types import Batch
from frostline.costs import CostMeter
from frostline.loop.lesson import Lesson
from frostline.loop.plain import Whole
from frostline.loop.run import Run
from frostline.loop.settings import TrainerConfig
from frostline.speed.activations import Cache, frost_line, prefix_digest
from frostline.streams.augmentation import Augmentation

State = Tensor | tuple[Tensor, ...]


def check_settings(settings: TrainerConfig, model: nn.Module) -> None:
    """Raise UsageError where a cache is demanded that cannot be."""
    if settings.prefix_cache != "on":
        return
    if not is_staged(model):
        raise UsageError(
            f"trainer.prefix_cache=on: {type(model).__name__} has no stages() to cut it at. Expected a model that has, "
            "such as those of conf/model; or trainer.prefix_cache=auto."
        )
    if settings.augment and not settings.prefix_cache_views:
        raise UsageError(
            f"trainer.prefix_cache=on with trainer.augment={list(settings.augment)}: activations of random images are "
            "different in every epoch. Expected trainer.prefix_cache_views=4, say, to cache that many variants of each."
        )


class Tail(nn.Module):
    """The stages after the frost line and the head, as a module: other weights can be put in the place of its own."""

    def __init__(self, model: Any, line: int):
        super().__init__()
        self.model, self.line = model, line

    def forward(self, state: State) -> Tensor:
        """Return logits."""
        return self.model.head(piped(self.model.stages()[self.line :], state))


class Cached:
    """The entrance behind the frost line: what the frozen stages put out is read, by the samples' ids."""

    def __init__(self, run: Run, cache: Cache):
        assert is_staged(run.model)
        self.run, self.cache, self.whole = run, cache, Whole(run)
        model: Any = run.model
        self._tail: Sequence[nn.Module] = model.stages()[cache.line :]
        self._head: Any = model.head
        self._again = run.settings.activation_checkpointing
        frozen = {id(p) for stage in model.stages()[: cache.line] for p in (*stage.parameters(), *stage.buffers())}
        named = (*model.named_parameters(), *model.named_buffers())
        self._frozen = frozenset(name for name, t in named if id(t) in frozen)
        self._last: tuple[Batch, State] | None = None

    @property
    def line(self) -> int:
        return self.cache.line

    @property
    def nbytes(self) -> int:
        return self.cache.nbytes

    @property
    def random(self) -> bool:
        """Whether a sample's variant is drawn."""
        return self.cache.views > 1

    def view(self, batch: Batch) -> Batch:
        """Return the batch as it is: its images were drawn when the cache was filled."""
        self._last = None  # a probe may have drawn variants for the same batch
        return batch

    def state(self, batch: Batch) -> State:
        """Return the batch's activations: the same ones to whoever asks for the same batch."""
        if self._last is None or self._last[0] is not batch:
            self._last = (batch, self.cache.read(batch.index))
        return self._last[1]

    def logits(self, batch: Batch, weights: Weights | None = None) -> Tensor:
        """Return raw logits; from the samples where `weights` holds any of the stages that the cache stands for."""
        if weights is not None:
            if not self._frozen.isdisjoint(weights):
                return self.whole.logits(batch, weights)
            tail = Tail(self.run.model, self.line).train(self.run.model.training)
            with self.run.casting():
                named = {f"model.{name}": value for name, value in weights.items()}
                return functional_call(tail, named, (self.state(batch),)).float()
        with self.run.casting():
            return self._head(piped(self._tail, self.state(batch), self._again)).float()

    def features(self, batch: Batch) -> Tensor:
        """Return what the head makes logits of."""
        with self.run.casting():
            return piped(self._tail, self.state(batch), self._again).float()

    def teach(self, batch: Batch, weights: Weights) -> Tensor:
        """Return raw logits in eval mode."""
        with evaluating(self.run.model):
            return self.logits(batch, weights)

    def check(self) -> None:
        """Raise RuntimeError where a sample was asked for that the cache does not hold."""
        if self.cache.missed():
            raise RuntimeError(
                "A sample was not in the prefix cache: a strategy's `augment` returned samples "
                "that its `remembered` did not name. Use trainer.prefix_cache=off, or name them there."
            )


class Prefix:
    """Decides, stretch by stretch, what of a run is read from a cache.

    A cache lives for one part of a task. It is used for another stretch only if a digest of the frozen weights is
    still the same, and read by sample id (and variant), so it can never answer for other weights or other samples; an id
    that it does not hold is an error.
    """

    def __init__(self) -> None:
        self.cache: Cache | None = None
        self.notes: list[dict[str, Any]] = []
        self.open = [0, 1, 0]  # stages read from the cache now, in how many variants, and of how many samples
        self._resumed = False

    def enter(self, lesson: Lesson, scope: Scope) -> Whole | Cached:
        """Build, lengthen or drop the cache, as this stretch's scope allows and repays; return the way in."""
        run, old = lesson.run, self.cache
        if self._resumed:  # what a kill took is built again, as it was; the bill has it already
            self._resumed = False
            if not lesson.fresh:
                line, views, room = self.open
                if line:
                    self._build(lesson, line, views, room)
                return self._entrance(run)
        line, views, reason = _decide(lesson)
        if old is not None and is_staged(run.model):
            if old.line > frost_line(run.model) or old.digest != prefix_digest(run.model, old.line):
                old = self.cache = None
            elif line <= old.line:
                return self._entrance(run)  # good as it is
        if line:
            with run.meter.phase("cache", lesson.task.index) as row:
                self._build(lesson, line, views, 0, old, run.meter)
                assert self.cache is not None
                row.stored_bytes = self.cache.nbytes
            self._note(lesson, {"used": True, **_facts(self.cache, scope)})
        elif old is None:
            self._note(lesson, {"used": False, "reason": reason})
        held = self.cache
        self.open = [0, 1, 0] if held is None else [held.line, max(1, views), held.count]
        return self._entrance(run)

    def leave(self) -> None:
        """Let go of the memory."""
        self.cache = None

    def state_dict(self) -> dict[str, Any]:
        """Return what was open, without the activations: they are computed again."""
        return {"open": list(self.open), "notes": list(self.notes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.open, self.notes = list(state["open"]), list(state["notes"])
        self.cache, self._resumed = None, True

    def _entrance(self, run: Run) -> Whole | Cached:
        return Whole(run) if self.cache is None else Cached(run, self.cache)

    def _build(
        self,
        lesson: Lesson,
        line: int,
        views: int,
        room: int = 0,
        old: Cache | None = None,
        meter: CostMeter | None = None,
    ) -> None:
        run = lesson.run
        self.cache = Cache(run, line, views)
        remembered = list(run.strategy.remembered() or ())
        self.cache.fill(lesson.task, remembered, Augmentation(run.settings.augment), room, old, meter)

    def _note(self, lesson: Lesson, note: dict[str, object]) -> None:
        notes, task = self.notes, lesson.task.index
        if not notes or notes[-1]["task"] != task:
            notes.append({"task": task, "used": False})
        if note["used"] or not notes[-1]["used"]:  # a later stretch that cannot does not undo what an earlier one did
            notes[-1] = {"task": task, **note}


def _facts(cache: Cache, scope: Scope) -> dict[str, object]:
    model: Any = scope.model
    last = model.stages()[cache.line - 1]
    return {
        "frozen_stages": cache.line,
        "last_frozen": next(name for name, module in model.named_modules() if module is last),
        "samples": cache.count,
        "views": cache.views,
        "bytes": cache.nbytes,
        "where": "file" if cache.in_file else "memory",
    }


def _decide(lesson: Lesson) -> tuple[int, int, str]:
    """Return how many stages to cache, in how many variants; 0 with the reason where none."""
    run, model, strategy = lesson.run, lesson.run.model, lesson.run.strategy
    mode, views, augment = run.settings.prefix_cache, run.settings.prefix_cache_views, run.settings.augment
    if mode == "off":
        return 0, 0, "trainer.prefix_cache=off"
    if not is_staged(model):
        return 0, 0, f"{type(model).__name__} has no stages()"
    line = frost_line(model)
    if not any(True for stage in model.stages()[:line] for _ in stage.parameters()):
        return 0, 0, "no layer is frozen before the first that trains"
    if getattr(lesson.task.train, "random", False):
        return 0, 0, "the data set's samples are random themselves"
    if strategy.remembered() is None:
        return 0, 0, f"{type(strategy).__name__} changes batches without naming its samples in `remembered`"
    some = torch.arange(min(2, len(lesson.task.train)))  # an order of two: else all would be cut up for it
    two = next(iter(lesson.task.train.batches(2, some)))
    randomly = bool(augment) or _draws_random_numbers(model, line, two.x)
    reason = ""
    if randomly and not views:
        reason = "augmentation or dropout before the frost line is random, and trainer.prefix_cache_views=0"
    elif augment and strategy.sees_images():
        reason = f"{type(strategy).__name__} looks at the random images themselves"
    if reason:
        if mode == "on":
            raise UsageError(f"trainer.prefix_cache=on: {reason}. Expected a number of variants to cache, such as 4.")
        return 0, 0, reason
    views = views if randomly else 1
    if mode == "auto" and lesson.epochs_left <= views:
        return 0, 0, "there is no later pass over the data to save"
    return line, views, ""


def _draws_random_numbers(model: Staged, line: int, x: Tensor) -> bool:
    cuda = x.device.type == "cuda"
    state = torch.cuda.get_rng_state if cuda else torch.get_rng_state
    with torch.random.fork_rng(devices=[x.device] if cuda else []):
        before = state()
        run_stages(model, 0, line, x)
        return not torch.equal(before, state())
