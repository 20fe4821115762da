"""The steps of several lessons in one pass: what trainer.seeds saves its time with."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from frostline.core.scope import Scope
from frostline.core.sources import Drawn, MemorySource, TensorSource
from frostline.core.step import Step, Weights
from frostline.core.types import Batch
from frostline.loop.lesson import Lesson
from frostline.loop.optimizing import open_optimizer, rates_change, set_rates
from frostline.models.classifier import Classifier
from frostline.speed.prefix import Cached
from frostline.speed.stacking import Stack
from frostline.strategies.base import AT_STEPS

MOST_STEPS = 256  # taken in a row: then progress, checkpoints and Ctrl-C have their turn
MOST_NUMBERS = 2**22  # of samples read for them


class Together:
    """Every lesson's step in one pass: the models' parameters are views of stacked ones, the losses add up."""

    def __init__(self, lessons: Sequence[Lesson], scopes: Sequence[Scope]):
        self.lessons, self.scopes = lessons, scopes
        runs = [lesson.run for lesson in lessons]
        self.stack = Stack([run.model for run in runs], scopes[0].names, [run.drawing for run in runs])
        self.own = [open_optimizer(lesson, scope) for lesson, scope in zip(lessons, scopes, strict=True)]
        self.optimizer = stack_optimizers(runs[0].optimizer, self.own, scopes, self.stack.parameters)
        self.losses = torch.stack([lesson.losses for lesson in lessons], 1)
        for place, lesson in enumerate(lessons):
            lesson.losses = self.losses[:, place]
        self.steps = [
            Step(scope, lesson.task, lesson.total, _Place(self, place))
            for place, (lesson, scope) in enumerate(zip(lessons, scopes, strict=True))
        ]
        lines = {lesson.entrance.line for lesson in lessons}
        self.stacked = all(type(model) is Classifier for model in self.stack.models) and len(lines) == 1
        if self.stacked:
            self.classify = self.stack.classifier(min(lines))
        sources = [lesson.task.train for lesson in lessons]
        self.source = sources[0]
        plain = self.stacked and lines == {0} and not any(run.settings.augment for run in runs)
        reads = any(run.strategy.reads_samples() for run in runs)
        self.reads_at_once = plain and not reads and _one_store(sources)
        self.wants_samples = not self.reads_at_once and (reads or 0 in lines)
        self._visible: Tensor | None = None
        self.stride = _stride(lessons) if plain and not self.stack.direct else 1

    def losses_in_pieces(self, batches: Sequence[Batch]) -> list[Tensor] | None:
        return None

    def march(self, batches: Sequence[Batch], count: int) -> Tensor:
        x = self._read(batches) if self.reads_at_once else torch.stack([batch.x for batch in batches])
        y = torch.stack([batch.y for batch in batches])
        x, y = (t.unflatten(1, (count, -1)).transpose(0, 1).contiguous() for t in (x, y))
        found, objective = [], self.steps[0].task.objective
        for inputs, targets in zip(x, y, strict=True):
            with self.lessons[0].run.casting():
                raws = self.classify(inputs).float()
            losses = objective.losses(self._masked(raws), targets)
            for p in self.stack.parameters.values():  # nobody sees the models' own gradients meanwhile
                p.grad = None
            losses.sum().backward()
            self.optimizer.step()
            found.append(losses.detach())
        return torch.stack(found)

    def complete(self, batch: Batch) -> Batch:
        """Return a batch whose samples were left to be read with the others'."""
        return replace(batch, x=self._read([batch])[0]) if self.reads_at_once else batch

    def view(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        seen = []
        for lesson, batch in zip(self.lessons, batches, strict=True):
            with lesson.run.drawing() if lesson.run.settings.augment else nullcontext():
                seen.append(lesson.entrance.view(batch))
        return seen

    def forward(self, batches: Sequence[Batch]) -> Sequence[Tensor] | Tensor:
        """Return raw logits [S, B, C]; a list where the lessons' batches or models do not fit into one tensor."""
        if not self.reads_at_once and (not self.stacked or len({len(batch) for batch in batches}) > 1):
            return [self.alone(place, batch) for place, batch in enumerate(batches)]
        with self.lessons[0].run.casting():
            if self.reads_at_once:
                x = self._read(batches)
            else:
                x = torch.stack([self._state(*pair) for pair in zip(self.lessons, batches, strict=True)])
            return self.classify(x).float()

    def alone(self, place: int, batch: Batch, weights: Weights | None = None) -> Tensor:
        """Return one lesson's raw logits, from its own model."""
        lesson = self.lessons[place]
        with lesson.run.drawing():
            return lesson.entrance.logits(batch, weights)

    def mask(self, batches: Sequence[Batch], raws: Any) -> Sequence[Tensor] | Tensor:
        if isinstance(raws, Tensor):
            if _one_mask(self.lessons):
                return self._masked(raws)
            masks = [step.task.mask(batch) for step, batch in zip(self.steps, batches, strict=True)]
            if all(mask is not None and mask.ndim == 2 for mask in masks) and raws.ndim == 3:
                return torch.where(torch.stack([mask for mask in masks if mask is not None]), raws, -torch.inf)
        return [step.mask(batch, raw) for step, batch, raw in zip(self.steps, batches, raws, strict=True)]

    def _masked(self, raws: Tensor) -> Tensor:
        """Return logits [S, ...] of lessons each of which has one mask for all of its samples, or none of which has any."""
        masks = [step.task.visible for step in self.steps]
        if masks[0] is None:
            return raws
        if self._visible is None:
            shape = (len(masks), *(1,) * (raws.ndim - 2), -1)
            self._visible = torch.stack([mask for mask in masks if mask is not None]).view(shape)
        return torch.where(self._visible, raws, -torch.inf)

    def backward(self, losses: Sequence[Tensor] | Tensor, more: bool = False) -> None:
        assert isinstance(losses, Tensor)
        assert not more  # in parts, each lesson is learned alone
        self.stack.drop_gradients()
        losses.sum().backward()
        self.stack.collect_gradients()

    def gradients(self, place: int) -> dict[str, Tensor]:
        return {n: p.grad[place] for n, p in self.stack.parameters.items() if p.grad is not None}

    def replace_gradients(self, place: int, old: dict[str, Tensor], new: dict[str, Tensor]) -> None:
        for name, g in new.items():
            if g is not old.get(name):
                self.stack.parameters[name].grad[place] = g  # type: ignore[index]

    def state(self, place: int, name: str) -> dict[str, Any]:
        """Return one lesson's part of the optimizer's state."""
        whole = self.stack.parameters[name]
        return {
            key: value[place] if isinstance(value, Tensor) and value.shape == whole.shape else value
            for key, value in self.optimizer.state[whole].items()
        }

    def update(self) -> None:
        self.optimizer.step()

    def set_rates(self) -> None:
        rate = set_rates(self.optimizer, self.lessons[0], self.stack.parameters)
        for step in self.steps:
            step.rate = rate

    def settle(self) -> None:
        for place, (scope, each) in enumerate(zip(self.scopes, self.own, strict=True)):
            unstack_optimizer(self.optimizer, each, scope, place, self.stack.parameters)

    def close(self) -> None:
        self.settle()
        for lesson in self.lessons:
            lesson.entrance.check()

    def _read(self, batches: Sequence[Batch]) -> Tensor:
        assert isinstance(self.source, TensorSource)
        x = self.source.fetch(torch.cat([batch.index for batch in batches]))
        return x.unflatten(0, (len(batches), -1))

    def _state(self, lesson: Lesson, batch: Batch) -> Tensor:
        entrance = lesson.entrance
        if not isinstance(entrance, Cached):
            return batch.x
        with lesson.run.drawing() if entrance.random else nullcontext():
            state = entrance.state(batch)
        assert isinstance(state, Tensor)  # a Classifier's stages pass on one
        return state


class _Place:
    """One lesson's network among several: what its strategy asks for runs through its own model."""

    def __init__(self, engine: Together, place: int):
        self.engine, self.place = engine, place

    def logits(self, batch: Batch, weights: Weights | None = None) -> Tensor:
        return self.engine.alone(self.place, batch, weights)

    def teach(self, batch: Batch, weights: Weights) -> Tensor:
        lesson = self.engine.lessons[self.place]
        with lesson.run.drawing():
            return lesson.entrance.teach(batch, weights)

    def state(self, name: str) -> dict[str, Any]:
        return self.engine.state(self.place, name)

    def learning_rate(self) -> float:
        return float(self.engine.optimizer.param_groups[0]["lr"])


def _one_mask(lessons: Sequence[Lesson]) -> bool:
    """Tell whether no lesson masks logits, or each all of its samples' alike."""
    kinds = {None if lesson.task.visible is None else lesson.task.visible.ndim for lesson in lessons}
    return kinds in ({None}, {1})


def _stride(lessons: Sequence[Lesson]) -> int:
    """Return how many steps can be taken in a row: where data are at hand and no method does anything of its own at a step."""
    first, settings = lessons[0], lessons[0].run.settings
    looks = settings.sam or settings.clip is not None or any(map(rates_change, lessons)) or not _one_mask(lessons)
    for lesson in lessons:
        run = lesson.run
        at_hand = isinstance(lesson.task.train, TensorSource | MemorySource | Drawn)
        looks = looks or not at_hand or run.selector.observes or any(map(run.strategy.uses, AT_STEPS))
    step = len(lessons) * settings.batch_size * math.prod(first.run.stream.shape)
    return 1 if looks else max(1, min(MOST_STEPS, MOST_NUMBERS // step))


def _one_store(sources: Sequence[object]) -> bool:
    first = sources[0]
    return isinstance(first, TensorSource) and all(first.shares_samples(other) for other in sources)


def stack_optimizers(
    factory: Callable[..., torch.optim.Optimizer],
    optimizers: Sequence[torch.optim.Optimizer],
    scopes: Sequence[Scope],
    stacked: Mapping[str, Tensor],
) -> torch.optim.Optimizer:
    """Return one optimizer over the stacked parameters [S, ...] that goes on from the state of S equal ones.

    Every update that works element by element is the same on a stack; one that takes a norm over a tensor would mix seeds.
    """
    first = optimizers[0]
    names = list(scopes[0].parameters)
    grouped = len(first.param_groups) > 1
    together = factory([{"params": [stacked[n]]} for n in names] if grouped else [stacked[n] for n in names])
    for group, old in zip(together.param_groups, first.param_groups, strict=True):
        group.update({key: value for key, value in old.items() if key != "params"})
    for name in names:
        states = [o.state[s.parameters[name]] for o, s in zip(optimizers, scopes, strict=True)]
        shape = scopes[0].parameters[name].shape
        for key, value in states[0].items():
            whole = isinstance(value, Tensor) and value.shape == shape
            together.state[stacked[name]][key] = torch.stack([state[key] for state in states]) if whole else value
    return together


def unstack_optimizer(
    together: torch.optim.Optimizer,
    own: torch.optim.Optimizer,
    scope: Scope,
    place: int,
    stacked: Mapping[str, Tensor],
) -> None:
    """Give one of the S optimizers its part of the common state."""
    for name, p in scope.parameters.items():
        own.state[p] = {
            key: value[place] if isinstance(value, Tensor) and value.shape == stacked[name].shape else value
            for key, value in together.state[stacked[name]].items()
        }
    for group, other in zip(own.param_groups, together.param_groups, strict=True):
        group["lr"] = other["lr"]
