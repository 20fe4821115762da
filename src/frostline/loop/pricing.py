"""What a training step costs: counted once for each shape of work, outside the bill."""

import copy
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from frostline.core.scope import Scope
from frostline.core.structure import everything, packed_layers
from frostline.core.types import Batch, Task
from frostline.costs import Reference, StepCosts, TaskCosts
from frostline.costs.flops import count_flops
from frostline.loop.run import Run
from frostline.loop.stepping import take_step
from frostline.strategies.base import Strategy


def step_kind(run: Run, batch: Batch) -> tuple[Hashable, ...]:
    """Return what decides the shape of a step within a scope: the incoming batch's size, and what the strategy adds."""
    return (len(batch), run.strategy.work(len(batch)))


@contextmanager
def traceless(strategy: Strategy, scope: Scope, device: torch.device) -> Iterator[None]:
    """Put back what a step without an update goes through: strategy, weights, norms, random numbers, gradients."""
    kept = copy.deepcopy(strategy.state_dict())
    buffers = {name: b.clone() for name, b in scope.model.named_buffers()}
    moves = strategy.uses("after_step")
    weights = {name: p.detach().clone() for name, p in scope.parameters.items()} if moves else {}
    gradients = {name: p.grad for name, p in scope.parameters.items()}
    for p in scope.parameters.values():
        p.grad = None
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:  # also where the step failed: a run may go on without what was tried
        strategy.load_state_dict(kept)
        with torch.no_grad():
            for name, b in scope.model.named_buffers():
                b.copy_(buffers[name])
            for name, value in weights.items():
                scope.parameters[name].copy_(value)
        for name, p in scope.parameters.items():
            p.grad = gradients[name]


class StepCounter:
    """The operations of a lesson's step, counted once for each distinct shape of work of a scope.

    The probe is a step that leaves no trace, taken by an `engine` of this lesson alone.
    """

    def __init__(self, lesson: Any, scope: Scope, engine: Any):
        self.lesson, self.run, self.scope, self.engine = lesson, lesson.run, scope, engine
        self.place = (lesson.task.index, self.run.progress.part, scope.names, lesson.entrance.line, self.run.shape)
        self.known: dict[tuple, tuple[int, int]] = {}

    def __call__(self, batch: Batch, steps: int = 1) -> int:
        """Return the operations of a step on this batch, before it is taken; note how many samples so many steps see."""
        flops, seen = self.known_for(batch)
        counts = self.run.progress.seen
        counts[self.place[-1]] = counts.get(self.place[-1], 0) + seen * steps
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

    def key(self, batch: Batch) -> tuple:
        """Return what decides the operations of the step, in all of the run."""
        return (*self.place, *step_kind(self.run, batch))

    def learn(self, batch: Batch) -> None:
        """Count the step, off the bill."""
        kind, key = step_kind(self.run, batch), self.key(batch)
        with self.run.meter.paused():
            if key not in self.run.step_flops:  # a scope may come again within the task
                self.run.step_flops[key] = self._probe(batch)
            self._measure_reference(batch)
            self.known[kind] = self.run.step_flops[key]

    def _probe(self, batch: Batch) -> tuple[int, int]:
        seen = 0

        def work() -> None:
            nonlocal seen
            seen = take_step(self.engine, [batch], update=False)[1][0]

        with traceless(self.run.strategy, self.scope, self.run.device):
            flops = count_flops(work, self.run.meter.uncounted)
        return flops, seen

    def _measure_reference(self, batch: Batch) -> None:
        if self.scope.names != everything(self.run.model):
            if not batch.x.numel():  # a cached step: its samples were not read
                batch = next(iter(self.lesson.task.train.batches(len(batch))))
            time_full(self.run, self.lesson.task, batch)


def price_full(run: Run, task: Task) -> None:
    """Count a step of plain full fine-tuning, once a shape of the model: after a task, so that training begins at once."""
    known = run.progress.references.setdefault(run.shape, Reference())
    if known.flops_per_sample is None:
        batch = next(iter(task.train.batches(run.settings.batch_size)))
        run.progress.references[run.shape] = known.count(run.model, batch.x)


def time_full(run: Run, task: Task, batch: Batch) -> None:
    """Time plain full fine-tuning once a shape of the model, at the first task that is not itself trained in full."""
    known = run.progress.references.setdefault(run.shape, Reference())
    if run.reference_steps and known.seconds_per_sample is None and not packed_layers(run.model):
        try:
            run.progress.references[run.shape] = known.measure(
                run.model, task, batch, run.optimizer, repeats=run.reference_steps, micro=run.settings.micro_batch_size,
                casting=run.casting,
            )  # fmt: skip
        except torch.OutOfMemoryError:
            run.reference_steps = 0
            print(
                "frostline: full fine-tuning does not fit into this device's memory, so it is not timed beside the run."
            )


def count_plain(run: Run, index: int) -> None:
    """Count what plain fine-tuning would have seen of the task: its own data, in every pass, however it was learned."""
    settings, own = run.settings, run.stream[index].train
    of_an_epoch = -(-len(own) // settings.batch_size)
    steps = min(settings.epochs * of_an_epoch, settings.max_steps or settings.epochs * of_an_epoch)
    epochs, more = divmod(steps, of_an_epoch)
    samples = epochs * len(own) + more * settings.batch_size  # only an epoch's last batch is smaller
    run.progress.plain[run.shape] = run.progress.plain.get(run.shape, 0) + samples
    if not run.progress.trained:  # no step was taken beside which one could have been timed
        time_full(run, run.stream[index], next(iter(own.batches(settings.batch_size))))


def task_costs(run: Run, task: Task) -> TaskCosts:
    """Return what learning the task would cost, priced on a full batch when somebody asks."""

    def trace() -> StepCosts:
        batch = next(iter(task.train.batches(run.settings.batch_size)))
        return StepCosts.trace(run.model, batch.x)

    return TaskCosts(trace, run.settings.epochs, len(task.train), run.backend.reuse(run, task))
