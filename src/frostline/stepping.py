"""One training step, and what it costs."""

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from frostline.costs import StepCosts, TaskCosts
from frostline.flops import count_flops
from frostline.run import Run
from frostline.scope import Scope, everything
from frostline.strategies import Strategy
from frostline.types import Batch, Task

Forward = Callable[[Batch, Tensor | None], Tensor]  # a batch and its visible classes to logits


def train_step(
    strategy: Strategy,
    scope: Scope,
    task: Task,
    optimizer: torch.optim.Optimizer | None,
    batch: Batch,
    forward: Forward,
    observe: Callable[[Mapping[str, Tensor]], None] | None = None,
) -> tuple[Tensor, int]:
    """Take one step; return its loss, still on the device, and the number of samples it saw. A probe has no optimizer."""
    batch = strategy.augment(batch)
    logits = forward(batch, task.mask(batch))
    loss = strategy.criterion(batch, logits)
    if strategy.uses("penalty"):
        loss = loss + strategy.penalty(scope, batch, logits)
    for p in scope.parameters.values():  # all that the optimizer has; its own zero_grad takes longer
        p.grad = None
    loss.backward()
    grads: dict[str, Tensor] = {}
    if observe is not None or strategy.uses("project") or strategy.uses("after_step"):
        grads = {name: p.grad for name, p in scope.parameters.items() if p.grad is not None}
        grads = strategy.project(scope, grads)
        for name, g in grads.items():
            scope.parameters[name].grad = g
    if optimizer is not None:
        if observe is not None:
            observe(grads)
        optimizer.step()
    if strategy.uses("after_step"):
        strategy.after_step(scope, grads)
    return loss.detach(), len(batch)


def step_kind(run: Run, batch: Batch) -> tuple[Hashable, ...]:
    """Return what decides the shape of a step within a scope: the incoming batch's size, and what the strategy adds."""
    return (len(batch), run.strategy.work(len(batch)))


@contextmanager
def traceless(run: Run, scope: Scope) -> Iterator[None]:
    """Put back what a step without an optimizer goes through: the strategy, the norms, the random numbers, the gradients."""
    strategy = copy.deepcopy(run.strategy.state_dict())
    buffers = {name: b.clone() for name, b in run.model.named_buffers()}
    try:
        with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
            yield
    finally:  # also where the step failed: a run may go on without what was tried
        run.strategy.load_state_dict(strategy)
        with torch.no_grad():
            for name, b in run.model.named_buffers():
                b.copy_(buffers[name])
        for p in scope.parameters.values():
            p.grad = None


class StepCounter:
    """The operations of a step, counted once for each distinct shape of work of a scope, outside the bill.

    The probe is a step that leaves no trace. `line` is the number of stages whose output is read from a cache.
    """

    def __init__(self, run: Run, scope: Scope, task: Task, forward: Forward, line: int):
        self.run, self.scope, self.task, self.forward = run, scope, task, forward
        self.place = (task.index, scope.names, line)
        self.known: dict[tuple, tuple[int, int]] = {}

    def __call__(self, batch: Batch) -> int:
        """Return the operations of the step on this batch; note how many samples it sees."""
        flops, seen = self.known_for(batch)
        self.run.seen += seen
        return flops

    def known_for(self, batch: Batch) -> tuple[int, int]:
        """Return the operations of the step and the samples that it sees."""
        kind = step_kind(self.run, batch)
        if kind not in self.known:
            self.learn(batch)
        return self.known[kind]

    def knows(self, batch: Batch) -> bool:
        """Tell whether a step like this one was counted."""
        return step_kind(self.run, batch) in self.known

    def learn(self, batch: Batch) -> None:
        """Count the step, off the bill."""
        kind = step_kind(self.run, batch)
        with self.run.meter.paused():
            key = (*self.place, *kind)
            if key not in self.run.step_flops:  # a scope may come again within the task
                self.run.step_flops[key] = self._probe(batch)
            self._measure_reference(batch)
            self.known[kind] = self.run.step_flops[key]

    def _probe(self, batch: Batch) -> tuple[int, int]:
        seen = 0

        def work() -> None:
            nonlocal seen
            seen = train_step(self.run.strategy, self.scope, self.task, None, batch, self.forward)[1]

        with traceless(self.run, self.scope):
            flops = count_flops(work)
        return flops, seen

    def _measure_reference(self, batch: Batch) -> None:
        """Time plain full fine-tuning once a run, at the first task that is not itself trained in full."""
        run = self.run
        partially = self.scope.names != everything(run.model)
        repeats = run.settings.reference_steps if partially else 0
        if repeats and run.reference.seconds_per_sample is None:
            if not batch.x.numel():  # a cached step: its samples were not read
                batch = next(iter(self.task.train.batches(len(batch))))
            run.reference = run.reference.measure(
                run.model, batch.x, batch.y, self.task.mask(batch), run.optimizer, repeats=repeats, casting=run.casting
            )


def price_full(run: Run, task: Task) -> None:
    """Count a step of plain full fine-tuning, once a run: after the first task, so that training begins at once."""
    if run.reference.flops_per_sample is None:
        batch = next(iter(task.train.batches(run.settings.batch_size)))
        run.reference = run.reference.count(run.model, batch.x, task.mask(batch))


def task_costs(run: Run, task: Task) -> TaskCosts:
    """Return what learning the task would cost, priced on a full batch when somebody asks."""
    settings, remembered = run.settings, run.strategy.remembered()

    def trace() -> StepCosts:
        batch = next(iter(task.train.batches(settings.batch_size)))
        return StepCosts.trace(run.model, batch.x, task.mask(batch))

    reuse = 1.0
    if settings.prefix_cache != "off" and remembered is not None:
        distinct = (len(task.train) + sum(map(len, remembered))) * max(1, settings.prefix_cache_views)
        reuse = min(1.0, distinct / (len(task.train) * settings.epochs))
    return TaskCosts(trace, settings.epochs, len(task.train), reuse)
