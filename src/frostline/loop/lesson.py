"""Lesson: one run learning one part of a task, and how far it is."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from frostline.core.checks import UsageError
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.types import Batch, Task
from frostline.loop.backend import Entrance
from frostline.loop.pricing import price_full, task_costs
from frostline.loop.run import Run
from frostline.selectors.base import Change

BLOCK_S = 0.05  # of steps that are taken in a row


class Lesson:
    """What a run needs while it learns a part of a task: where its steps are counted, its losses, its entrance."""

    def __init__(self, run: Run, task: Task):
        self.run, self.task = run, task
        self.epochs = run.settings.epochs if task.epochs is None else task.epochs
        self.steps = -(-len(task.train) // run.settings.batch_size)  # of an epoch
        self.total = min(self.steps * self.epochs, run.settings.max_steps or self.steps * self.epochs)
        self.losses = torch.zeros(self.total, device=run.device)
        self.added_up = run.progress.step  # losses that progress.losses has
        self.fresh = run.progress.change is None  # not one that a checkpoint was taken in the middle of
        self.first = self.fresh and run.progress.part == 0
        self.entrance: Entrance
        self.lookout: Any = None  # who looks up from the steps, once they have begun
        self.closed = not self.total  # every step taken, and the bill of the last stretch made out

    @property
    def done(self) -> bool:
        """Whether every step was taken."""
        return self.run.progress.step == self.total

    @property
    def change(self) -> Change:
        """What trains now."""
        assert self.run.progress.change is not None
        return self.run.progress.change

    @property
    def undisturbed(self) -> int:
        """Steps until something else trains, or is evaluated within the task."""
        every, step = self.run.settings.evaluate_every, self.run.progress.step
        ends = [self.total, self.change.until or self.total] + ([(step // every + 1) * every] if every else [])
        return min(ends) - step

    @property
    def epochs_left(self) -> float:
        """Passes over the data that are to come."""
        return (self.total - self.run.progress.step) / self.steps

    def scope(self) -> Scope:
        """Return what trains now."""
        return Scope(self.run.model, self.change.names)

    def select(self) -> None:
        """Let the selector choose, where the part begins."""
        run, task, progress = self.run, self.task, self.run.progress
        if progress.change is not None or not self.total:
            return
        with run.meter.phase("select", task.index, count=True) as row:
            names = run.selector(run.model, task, task_costs(run, task))
            if not names:
                raise UsageError(
                    f"{type(run.selector).__name__} chose no parameters at all: there is nothing to train."
                )
            progress.thawed = sorted(names)
            progress.change = run.selector.during(run.model, task, names, 0, self.total)
            row.trainable_parameters = self.scope().size

    def next_change(self) -> Change:
        """Ask the selector again, in the middle of the task."""
        run, progress = self.run, self.run.progress
        return run.selector.during(run.model, self.task, frozenset(progress.thawed or ()), progress.step, self.total)

    def batches(self, samples: bool, several: int = 1) -> Iterator[Batch]:
        """Yield batches from where the run stands: each epoch in an order that (seed, task, epoch) decides.

        several: how many steps' batches come as one, as far as an epoch has so many.
        """
        run, train, size = self.run, self.task.train, self.run.settings.batch_size
        epoch, first = divmod(run.progress.step, self.steps)
        left = self.total - run.progress.step
        part = [run.progress.part] if run.progress.part else []
        for number in range(epoch, self.epochs):
            order = torch.randperm(len(train), generator=generator(run.seed, "order", self.task.index, number, *part))
            start = first if number == epoch else 0
            if several > 1:
                order, start = order[start * size : (start + left) * size], 0
            for batch in train.batches(several * size, order, start, samples=samples):
                if not left:
                    return
                left -= -(-len(batch) // size)
                yield batch

    def add_up(self) -> None:
        """Add the losses of the steps taken since to those of the task."""
        progress, steps = self.run.progress, slice(self.added_up, self.run.progress.step)
        total, count = progress.losses.get(self.task.index, (0.0, 0))
        found = float(self.losses[steps].double().sum())
        progress.losses[self.task.index] = (total + found, count + steps.stop - steps.start)
        self.added_up = steps.stop

    def end_part(self) -> None:
        """Let the strategy change what must change when the part is over."""
        run = self.run
        run.backend.leave(self)
        price_full(run, self.task)
        if run.strategy.uses("after_part"):
            with self._trained().thawed() as scope, run.meter.phase("consolidate", self.task.index, count=True):
                run.strategy.after_part(scope, self.task, run.progress.part)
        run.progress.begin_part(run.progress.task, run.progress.part + 1)

    def consolidate(self) -> None:
        """Let the strategy remember what must not be lost."""
        run = self.run
        with self._trained().thawed() as scope, run.meter.phase("consolidate", self.task.index, count=True) as row:
            run.strategy.after_task(scope, self.task)
            row.stored_bytes = run.strategy.stored_bytes()

    def _trained(self) -> Scope:
        return Scope(self.run.model, frozenset(self.run.progress.trained))

    def stored_bytes(self) -> int:
        """Return the bytes that the method keeps at this moment."""
        return self.run.strategy.stored_bytes() + self.run.selector.stored_bytes() + self.entrance.nbytes


def blocks(lessons: Sequence[Lesson], samples: bool, stride: int) -> Iterator[tuple[Sequence[Batch], int]]:
    """Yield each lesson's next batch and 1; or, with a longer stride, those of several steps in one and how many.

    So many that the loop looks up every BLOCK_S or so, that no change of what trains and no evaluation falls within them, and
    that all are of one size.
    """
    if stride == 1:
        for batches in zip(*(lesson.batches(samples) for lesson in lessons), strict=True):
            yield batches, 1
        return
    size, pace = lessons[0].run.settings.batch_size, 1
    for chunks in zip(*(lesson.batches(samples, stride) for lesson in lessons), strict=True):
        done = 0
        while done < len(chunks[0]):
            several = max(1, min(pace, lessons[0].undisturbed, (len(chunks[0]) - done) // size))
            begin = time.monotonic()
            yield [chunk.rows(slice(done, done + several * size)) for chunk in chunks], several
            done += several * size
            pace = min(stride, 2 * pace if time.monotonic() - begin < BLOCK_S else max(1, pace // 2))
