"""Lesson: one run learning one task, and how far it is."""

from collections.abc import Iterator

import torch

from frostline.prefix import Prefix
from frostline.rng import generator
from frostline.run import Run
from frostline.scope import Scope
from frostline.selectors import Change
from frostline.stacking import pays
from frostline.stepping import price_full, task_costs
from frostline.types import Batch, Task


class Lesson:
    """What a run needs while it learns one task: where its steps are counted, its losses, its prefix."""

    def __init__(self, run: Run, task: Task):
        self.run, self.task = run, task
        self.steps = -(-len(task.train) // run.settings.batch_size)  # of an epoch
        self.total = self.steps * run.settings.epochs
        self.losses = torch.zeros(self.total, device=run.device)
        self.fresh = run.change is None  # not a task that a checkpoint was taken in the middle of
        self.prefix = Prefix(run, task, resumed=not self.fresh)
        self.closed = False  # every step taken, and the bill of the last stretch made out

    @property
    def done(self) -> bool:
        """Whether every step was taken."""
        return self.run.step == self.total

    @property
    def epochs_left(self) -> float:
        """Passes over the data that are to come."""
        return (self.total - self.run.step) / self.steps

    def scope(self) -> Scope:
        """Return what trains now."""
        assert self.run.change is not None
        return Scope(self.run.model, self.run.change.names)

    def kind(self) -> object:
        """Return what must be equal for two lessons to be learned in one pass: what trains, how fast, until when.

        A lesson that would gain nothing from it is of a kind of its own.
        """
        change, model = self.run.change, self.run.model
        assert change is not None
        if not pays(model, self.run.device):
            return self
        return (change.names, tuple(sorted(change.rates.items())), change.until, self.total, len(self.task.train))

    def select(self) -> None:
        """Let the selector choose, where the task begins."""
        run, task = self.run, self.task
        if run.change is not None:
            return
        with run.meter.phase("select", task.index, count=True) as row:
            names = run.selector(run.model, task, task_costs(run, task))
            run.thawed = sorted(names)
            run.change = run.selector.during(run.model, task, names, 0, self.total)
            row.trainable_parameters = self.scope().size

    def next_change(self) -> Change:
        """Ask the selector again, in the middle of the task."""
        run = self.run
        return run.selector.during(run.model, self.task, frozenset(run.thawed or ()), run.step, self.total)

    def batches(self, samples: bool) -> Iterator[Batch]:
        """Yield batches from where the run stands: each epoch in an order that (seed, task, epoch) decides."""
        run, train = self.run, self.task.train
        epoch, first = divmod(run.step, self.steps)
        for number in range(epoch, run.settings.epochs):
            order = torch.randperm(len(train), generator=generator(run.settings.seed, "order", self.task.index, number))
            start = first if number == epoch else 0
            yield from train.batches(run.settings.batch_size, order, start, samples=samples)

    def consolidate(self) -> None:
        """Let the strategy remember what must not be lost."""
        run = self.run
        self.prefix.close()
        price_full(run, self.task)
        with self.scope().thawed() as scope, run.meter.phase("consolidate", self.task.index, count=True) as row:
            run.strategy.after_task(scope, self.task)
            row.stored_bytes = run.strategy.stored_bytes()

    def stored_bytes(self) -> int:
        """Return the bytes that the method keeps at this moment."""
        return self.run.strategy.stored_bytes() + self.run.selector.stored_bytes() + self.prefix.nbytes
