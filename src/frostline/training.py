"""The loop: tasks, stretches, steps; what is chosen, trained, remembered, evaluated and saved, in that order."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from frostline.evaluation import evaluate
from frostline.lookout import Lookout
from frostline.optimizing import close_optimizer, open_optimizer, set_rates
from frostline.prefix import Prefix
from frostline.rng import generator
from frostline.run import Run
from frostline.scope import Scope
from frostline.stepping import StepCounter, task_costs, train_step
from frostline.types import Batch, Task


def run_stream(run: Run) -> None:
    """Learn every task from where the run stands to the end of the stream."""
    for observer in run.observers:
        observer.started(run)
    if not run.accuracy:
        run.accuracy.append(evaluate(run, None))
    for index in range(run.task, len(run.stream)):
        task = run.strategy.task(run.stream, index)
        row: list[float | None] = [None] * len(run.stream)
        if task is not None:
            learn(run, task)
            row = evaluate(run, index)
        run.accuracy.append(row)
        run.task, run.step, run.thawed, run.change = index + 1, 0, None, None
        for observer in run.observers:
            observer.task_done(run, index)
        if run.save is not None:
            run.save(run.state_dict())


def learn(run: Run, task: Task) -> None:
    """Choose what thaws, train it stretch by stretch, let the strategy remember.

    A stretch is what a selector leaves unchanged: the whole task for most, some steps for those that change their mind.
    """
    steps = -(-len(task.train) // run.settings.batch_size)
    total = steps * run.settings.epochs
    fresh = run.change is None
    if run.change is None:
        with run.meter.phase("select", task.index, count=True) as row:
            names = run.selector(run.model, task, task_costs(run, task))
            run.thawed = sorted(names)
            run.change = run.selector.during(run.model, task, names, 0, total)
            row.trainable_parameters = Scope(run.model, run.change.names).size
    losses = torch.zeros(total, device=run.device)
    prefix = Prefix(run, task, resumed=not fresh)
    while True:
        with Scope(run.model, run.change.names).thawed() as scope:
            prefix.open(scope, (total - run.step) / steps)
            with run.meter.phase("train", task.index) as row:
                row.trainable_parameters = max(row.trainable_parameters, scope.size)
                if fresh:
                    run.strategy.before_task(scope, task)
                fresh = False
                fit(run, scope, task, prefix, losses)
                row.stored_bytes = run.strategy.stored_bytes() + run.selector.stored_bytes() + prefix.nbytes
        if run.step == total:
            break
    prefix.close()
    with (
        Scope(run.model, run.change.names).thawed() as scope,
        run.meter.phase("consolidate", task.index, count=True) as row,
    ):
        run.strategy.after_task(scope, task)
        row.stored_bytes = run.strategy.stored_bytes()


def fit(run: Run, scope: Scope, task: Task, prefix: Prefix, losses: Tensor) -> None:
    """Train the scope until the selector thaws another or the task ends."""
    assert run.change is not None
    optimizer = open_optimizer(run, scope)
    cost = StepCounter(run, scope, task, prefix.logits, prefix.line)
    observe = run.selector.observe if run.selector.observes else None
    look = Lookout(run, task, losses, len(losses) // run.settings.epochs)
    for batch in _batches(run, task, samples=not prefix.line or run.strategy.reads_samples()):
        flops = cost(batch)
        losses[run.step], samples = train_step(run.strategy, scope, task, optimizer, batch, prefix.logits, observe)
        run.meter.step(samples, flops)
        run.step += 1
        if run.step == run.change.until and run.step < len(losses):
            names = frozenset(run.thawed or ())
            run.change = run.selector.during(run.model, task, names, run.step, len(losses))
            if run.change.names != scope.names:
                break
            set_rates(optimizer, scope, run.change.rates)
        if time.monotonic() >= look.next:
            look()
    prefix.check()
    look.check()
    close_optimizer(run, scope, run.change.names if run.step < len(losses) else frozenset())


def _batches(run: Run, task: Task, samples: bool) -> Iterator[Batch]:
    """Yield the task's batches from where the run stands: each epoch in an order that (seed, task, epoch) decides."""
    size = run.settings.batch_size
    epoch, first = divmod(run.step, -(-len(task.train) // size))
    for number in range(epoch, run.settings.epochs):
        order = torch.randperm(len(task.train), generator=generator(run.settings.seed, "order", task.index, number))
        yield from task.train.batches(size, order, first if number == epoch else 0, samples=samples)
