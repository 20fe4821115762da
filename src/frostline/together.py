"""The steps of several lessons in one pass: what trainer.seeds saves its time with."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from frostline.costs import all_paused
from frostline.lesson import Lesson
from frostline.lookout import Lookout
from frostline.models import Classifier
from frostline.optimizing import close_optimizer, open_optimizer, set_rates, stack_optimizers, unstack_optimizer
from frostline.scope import Scope
from frostline.sources import TensorSource
from frostline.stacking import Stack
from frostline.stepping import StepCounter
from frostline.types import Batch


def fit_together(lessons: Sequence[Lesson], scopes: Sequence[Scope]) -> None:
    """Train the lessons' scopes, which have the same names, until a selector thaws another or the task ends."""
    runs = [lesson.run for lesson in lessons]
    stack = Stack([run.model for run in runs], scopes[0].names, [run.drawing for run in runs])
    own = [open_optimizer(run, scope) for run, scope in zip(runs, scopes, strict=True)]
    optimizer = stack_optimizers(runs[0].optimizer, own, scopes, stack.parameters)
    losses = torch.stack([lesson.losses for lesson in lessons], 1)
    for place, lesson in enumerate(lessons):
        lesson.losses = losses[:, place]
    step = Step(lessons, scopes, stack)
    counters = [
        StepCounter(run, scope, lesson.task, lesson.prefix.logits, lesson.prefix.line)
        for run, scope, lesson in zip(runs, scopes, lessons, strict=True)
    ]
    looks = [Lookout(lesson.run, lesson.task, lesson.losses, lesson.steps) for lesson in lessons]
    for run in runs[1:]:  # equal models: counted once
        run.step_flops = runs[0].step_flops

    def settle() -> None:
        for place, (scope, each) in enumerate(zip(scopes, own, strict=True)):
            unstack_optimizer(optimizer, each, scope, place, stack.parameters)

    for batches in zip(*(lesson.batches(samples=not step.reads_at_once) for lesson in lessons), strict=True):
        _count(lessons, counters, batches, step)
        losses[runs[0].step], samples = step(batches, optimizer)
        for run, counter, batch, count in zip(runs, counters, batches, samples, strict=True):
            run.meter.step(count, counter(batch))
            run.step += 1
        change = runs[0].change
        assert change is not None
        if runs[0].step == change.until and not lessons[0].done:
            for lesson in lessons:
                lesson.run.change = lesson.next_change()
            if len({lesson.kind() for lesson in lessons}) > 1 or lessons[0].scope().names != scopes[0].names:
                break
            assert runs[0].change is not None
            set_rates(optimizer, stack.parameters, runs[0].change.rates)
        if time.monotonic() >= looks[0].next:
            settle()
            with all_paused([run.meter for run in runs]):
                for run, look in zip(runs, looks, strict=True):
                    with run.drawing():
                        look()
    settle()
    for lesson, scope, look in zip(lessons, scopes, looks, strict=True):
        assert lesson.run.change is not None
        lesson.prefix.check()
        look.check()
        close_optimizer(lesson.run, scope, frozenset() if lesson.done else lesson.run.change.names)


class Step:
    """One step of every lesson: each strategy sees its own batch, logits and gradients, as if it were alone."""

    def __init__(self, lessons: Sequence[Lesson], scopes: Sequence[Scope], stack: Stack):
        self.lessons, self.scopes, self.stack = lessons, scopes, stack
        self.strategies = [lesson.run.strategy for lesson in lessons]
        self.observers = [lesson.run.selector.observe if lesson.run.selector.observes else None for lesson in lessons]
        models, lines = stack.models, {lesson.prefix.line for lesson in lessons}
        self.stacked = all(type(model) is Classifier for model in models) and len(lines) == 1
        if self.stacked:
            self.forward = stack.classifier(min(lines))
        sources = [lesson.task.train for lesson in lessons]
        self.source = sources[0]
        plain = self.stacked and not any(lesson.prefix.augment for lesson in lessons) and lines == {0}
        self.reads_at_once = plain and not any(s.reads_samples() for s in self.strategies) and _one_store(sources)
        self._mask: Tensor | None = None

    def with_samples(self, batch: Batch) -> Batch:
        """Return a batch whose samples were left to be read with the others'."""
        return replace(batch, x=self._read([batch])[0]) if self.reads_at_once else batch

    def __call__(self, batches: Sequence[Batch], optimizer: torch.optim.Optimizer) -> tuple[Tensor, list[int]]:
        """Take the step; return the losses [S], still on the device, and how many samples each lesson saw."""
        mixed = [s.augment(batch) for s, batch in zip(self.strategies, batches, strict=True)]
        logits = self._logits(mixed)
        losses = self._losses(mixed, logits)
        self.stack.drop_gradients()
        losses.sum().backward()
        self.stack.collect_gradients()
        for place in range(len(self.lessons)):
            self._look_at_gradients(place)
        optimizer.step()
        for place, strategy in enumerate(self.strategies):
            if strategy.uses("after_step"):
                strategy.after_step(self.scopes[place], self._gradients(place))
        return losses.detach(), [len(batch) for batch in mixed]

    def _read(self, batches: Sequence[Batch]) -> Tensor:
        assert isinstance(self.source, TensorSource)
        x = self.source.fetch(torch.cat([batch.index for batch in batches]))
        return x.unflatten(0, (len(batches), -1))

    def _logits(self, batches: Sequence[Batch]) -> Tensor | list[Tensor]:
        """Return logits [S, B, C]; a list where the lessons' batches or models do not fit into one tensor."""
        with self.lessons[0].run.casting():
            logits = self._cast_logits(batches)
        return logits.float() if isinstance(logits, Tensor) else logits

    def _cast_logits(self, batches: Sequence[Batch]) -> Tensor | list[Tensor]:
        if self.reads_at_once:
            x = self._read(batches)
        elif not self.stacked or len({len(batch) for batch in batches}) > 1:
            return [self._alone(place, batch) for place, batch in enumerate(batches)]
        else:
            x = torch.stack(
                [self._entrance(lesson, batch) for lesson, batch in zip(self.lessons, batches, strict=True)]
            )
        return self.forward(x, self._visible(batches))

    def _entrance(self, lesson: Lesson, batch: Batch) -> Tensor:
        with lesson.run.drawing() if lesson.prefix.random else nullcontext():
            state = lesson.prefix.entrance(batch)
        assert isinstance(state, Tensor)  # a Classifier's stages pass on one
        return state

    def _alone(self, place: int, batch: Batch) -> Tensor:
        lesson = self.lessons[place]
        with lesson.run.drawing():
            return lesson.prefix.logits(batch, lesson.task.mask(batch))

    def _visible(self, batches: Sequence[Batch]) -> Tensor | None:
        """Return the visible classes as [S, 1, C] or [S, B, C], or None."""
        if self._mask is not None:
            return self._mask
        masks = [lesson.task.mask(batch) for lesson, batch in zip(self.lessons, batches, strict=True)]
        if masks[0] is None:
            return None
        if all(m is not None and m.ndim == 1 for m in masks):  # the same for every batch of the task
            self._mask = torch.stack([m.unsqueeze(0) for m in masks if m is not None])
            return self._mask
        return torch.stack([m.expand(len(b), -1) for m, b in zip(masks, batches, strict=True) if m is not None])

    def _losses(self, batches: Sequence[Batch], logits: Tensor | list[Tensor]) -> Tensor:
        """Return each lesson's loss, [S]."""
        if isinstance(logits, Tensor) and not any(s.uses("criterion") for s in self.strategies):
            y = torch.stack([batch.y for batch in batches])
            losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)
        else:
            losses = torch.stack([s.criterion(b, z) for s, b, z in zip(self.strategies, batches, logits, strict=True)])
        if not any(s.uses("penalty") for s in self.strategies):
            return losses
        each = zip(self.strategies, self.scopes, batches, logits, strict=True)
        return losses + torch.stack([s.penalty(scope, batch, z) for s, scope, batch, z in each])

    def _gradients(self, place: int) -> dict[str, Tensor]:
        return {n: p.grad[place] for n, p in self.stack.parameters.items() if p.grad is not None}

    def _look_at_gradients(self, place: int) -> None:
        strategy, observe = self.strategies[place], self.observers[place]
        if observe is None and not strategy.uses("project"):
            return
        grads = self._gradients(place)
        for name, g in strategy.project(self.scopes[place], grads).items():
            if g is not grads.get(name):
                self.stack.parameters[name].grad[place] = g  # type: ignore[index]
        if observe is not None:
            observe(self._gradients(place))


def _one_store(sources: Sequence[object]) -> bool:
    first = sources[0]
    return isinstance(first, TensorSource) and all(first.shares_samples(other) for other in sources)


def _count(lessons: Sequence[Lesson], counters: Sequence[StepCounter], batches: Sequence[Batch], step: Step) -> None:
    """Let every counter know the batch's operations, off everybody's bill."""
    if all(counter.knows(batch) for counter, batch in zip(counters, batches, strict=True)):
        return
    with all_paused([lesson.run.meter for lesson in lessons]):
        for lesson, counter, batch in zip(lessons, counters, batches, strict=True):
            with lesson.run.drawing():
                counter.learn(step.with_samples(batch))
            if lesson.run.reference.seconds_per_sample is None:  # equal models: timed once
                lesson.run.reference = lessons[0].run.reference
