"""One training step, and what it costs."""

import copy
from collections.abc import Callable, Mapping

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


class StepCounter:
    """The operations of a step, counted once for each distinct shape of work of a scope, outside the bill.

    The probe is a step that leaves no trace: no optimizer, and whatever the strategy, the norms or the random numbers
    went through is put back. `line` is the number of stages whose output is read from a cache.
    """

    def __init__(self, run: Run, scope: Scope, task: Task, forward: Forward, line: int):
        self.run, self.scope, self.task, self.forward = run, scope, task, forward
        self.place = (task.index, scope.names, line)
        self.known: dict[tuple, tuple[int, int]] = {}

    def __call__(self, batch: Batch) -> int:
        """Return the operations of the step on this batch; note what full fine-tuning would have taken."""
        if not self.knows(batch):
            self.learn(batch)
        flops, seen = self.known[self._key(batch)]
        self.run.seen += seen
        return flops

    def knows(self, batch: Batch) -> bool:
        """Tell whether a step like this one was counted."""
        return self._key(batch) in self.known

    def learn(self, batch: Batch) -> None:
        """Count the step, off the bill."""
        key = self._key(batch)
        with self.run.meter.paused():
            self.known[key] = self._look_up((*self.place, *key), batch)

    def _key(self, batch: Batch) -> tuple:
        return (len(batch), self.run.strategy.work(len(batch)))

    def _look_up(self, key: tuple, batch: Batch) -> tuple[int, int]:
        """Return the operations of the step, and the samples that it saw."""
        run = self.run
        if key not in run.step_flops:  # a scope may come again within the task
            run.step_flops[key] = self._probe(batch)
        self._measure_reference(batch)
        return run.step_flops[key]

    def _probe(self, batch: Batch) -> tuple[int, int]:
        run, seen = self.run, 0
        strategy = copy.deepcopy(run.strategy.state_dict())
        buffers = {name: b.clone() for name, b in run.model.named_buffers()}

        def work() -> None:
            nonlocal seen
            seen = train_step(run.strategy, self.scope, self.task, None, batch, self.forward)[1]

        with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
            flops = count_flops(work)
        run.strategy.load_state_dict(strategy)
        with torch.no_grad():
            for name, b in run.model.named_buffers():
                b.copy_(buffers[name])
        for p in self.scope.parameters.values():
            p.grad = None
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
                run.model, batch.x, batch.y, self.task.mask(batch), run.optimizer, repeats=repeats
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
