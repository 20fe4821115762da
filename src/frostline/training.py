"""The loop: tasks, epochs, steps; what is trained, counted, evaluated and saved, in that order."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frostline.checks import UsageError, in_range, one_of
from frostline.costs import CostMeter, Reference, step_flops
from frostline.flops import count_flops
from frostline.rng import generator
from frostline.scope import Scope, evaluating, everything
from frostline.selectors import Selector
from frostline.strategies import Strategy
from frostline.types import Batch, Source, Task, TaskStream

LOOK_EVERY_S = 0.5  # how often the loop looks up from its work: progress, checkpoints, a loss that is no number


class Diverged(UsageError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Settings:
    """How to train: the `trainer` section without the device."""

    epochs: int = 1
    batch_size: int = 128
    eval_batch_size: int = 512
    optimizer_state: str = "reset"
    evaluate_on: str = "test"
    checkpoint_every_s: float = 60.0
    reference_steps: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_batch_size"):
            in_range(f"trainer.{name}", getattr(self, name), 1)
        in_range("trainer.checkpoint_every_s", self.checkpoint_every_s, 0)
        in_range("cost.reference_steps", self.reference_steps, 0)
        one_of("trainer.optimizer_state", self.optimizer_state, ("reset", "keep"))
        one_of("trainer.evaluate_on", self.evaluate_on, ("test", "validation"))


@dataclass
class Progress:
    """Where the loop is, for whoever watches."""

    task: int
    epoch: int
    step: int
    steps: int
    loss: float
    samples_per_second: float


class Observer:
    """Somebody who watches a run; every method may stay as it is."""

    def started(self, run: "Run") -> None:
        """The run begins or goes on."""

    def progress(self, run: "Run", progress: Progress) -> None:
        """Called about twice a second while training."""

    def task_done(self, run: "Run", index: int) -> None:
        """Task `index` is learned and evaluated."""

    def finished(self, content: dict[str, Any], folder: Path) -> None:
        """The run is complete; `content` is that of result.json, and the figures are in folder/figures."""

    def close(self) -> None:
        """The run is over, well or not."""


@dataclass
class Run:
    """All that a run is made of, and how far it has come."""

    model: nn.Module
    stream: TaskStream
    strategy: Strategy
    selector: Selector
    optimizer: Callable[..., torch.optim.Optimizer]
    meter: CostMeter
    settings: Settings
    save: Callable[[dict[str, Any]], None] | None = None
    observers: Sequence[Observer] = ()

    accuracy: list[list[float | None]] = field(default_factory=list)
    task: int = 0
    epoch: int = 0
    step: int = 0
    thawed: list[str] | None = None  # the open task's scope; None between tasks
    full_flops: float = 0.0  # what full fine-tuning of the same batches would have taken so far
    reference: Reference | None = None
    open_optimizer: torch.optim.Optimizer | None = None
    optimizer_memory: dict[str, dict[str, Any]] = field(default_factory=dict)
    _resumed_optimizer: dict[str, Any] | None = None
    _evaluation_flops: dict[tuple, int] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on."""
        return {
            "position": [self.task, self.epoch, self.step],
            "thawed": self.thawed,
            "model": self.model.state_dict(),
            "optimizer": None if self.open_optimizer is None else self.open_optimizer.state_dict(),
            "optimizer_memory": self.optimizer_memory,
            "strategy": self.strategy.state_dict(),
            "meter": self.meter.state_dict(),
            "accuracy": self.accuracy,
            "full": [
                self.full_flops,
                *((self.reference.flops_per_sample, self.reference.seconds_per_sample) if self.reference else ()),
            ],
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.task, self.epoch, self.step = state["position"]
        self.thawed = state["thawed"]
        self.model.load_state_dict(state["model"])
        self._resumed_optimizer = state["optimizer"]
        self.optimizer_memory = state["optimizer_memory"]
        self.strategy.load_state_dict(_to(state["strategy"], self.device))
        self.meter.load_state_dict(state["meter"])
        self.accuracy = state["accuracy"]
        self.full_flops, *reference = state["full"]
        self.reference = Reference(*reference) if reference else None
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)


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
        run.task, run.epoch, run.step, run.thawed = index + 1, 0, 0, None
        for observer in run.observers:
            observer.task_done(run, index)
        if run.save is not None:
            run.save(run.state_dict())


def learn(run: Run, task: Task) -> None:
    """Choose what thaws, train it, let the strategy remember."""
    fresh = run.thawed is None
    if fresh:
        with run.meter.phase("select", task.index, count=True) as row:
            run.thawed = sorted(run.selector(run.model, task, partial(_step_cost, run, task)))
            row.trainable_parameters = Scope(run.model, frozenset(run.thawed)).size
    assert run.thawed is not None
    with Scope(run.model, frozenset(run.thawed)).thawed() as scope:
        with run.meter.phase("train", task.index) as row:
            row.trainable_parameters = scope.size
            if fresh:
                run.strategy.before_task(scope, task)
            fit(run, scope, task)
            row.stored_bytes = run.strategy.stored_bytes()
        with run.meter.phase("consolidate", task.index, count=True) as row:
            run.strategy.after_task(scope, task)
            row.stored_bytes = run.strategy.stored_bytes()


def fit(run: Run, scope: Scope, task: Task) -> None:
    """Train the scope on one task: `epochs` passes over its data, each in an order that (seed, task, epoch) decides."""
    settings, optimizer = run.settings, _open_optimizer(run, scope)
    cost = StepCounter(run, scope, task)
    steps = -(-len(task.train) // settings.batch_size)
    look = Lookout(run, task, steps)
    for epoch in range(run.epoch, settings.epochs):
        order = torch.randperm(len(task.train), generator=generator(settings.seed, "order", task.index, epoch))
        losses = torch.zeros(steps, device=run.device)
        first = run.step
        for step, batch in enumerate(task.train.batches(settings.batch_size, order, first), first):
            flops = cost(batch)
            losses[step], samples = train_step(run.strategy, scope, task, optimizer, batch)
            run.meter.step(samples, flops)
            run.epoch, run.step = epoch, step + 1
            if time.monotonic() >= look.next:
                look(losses, first)
        look.check(losses, first)
        run.epoch, run.step = epoch + 1, 0
    _close_optimizer(run, scope, optimizer)


def train_step(
    strategy: Strategy, scope: Scope, task: Task, optimizer: torch.optim.Optimizer | None, batch: Batch
) -> tuple[Tensor, int]:
    """Take one step; return its loss, still on the device, and the number of samples it saw. A probe has no optimizer."""
    batch = strategy.augment(batch)
    logits = scope.model(batch.x, task.mask(batch))
    loss = strategy.criterion(batch, logits)
    if strategy.uses("penalty"):
        loss = loss + strategy.penalty(scope, batch, logits)
    if optimizer is not None:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if strategy.uses("project") or strategy.uses("after_step"):
        grads = {name: p.grad for name, p in scope.parameters.items() if p.grad is not None}
        for name, g in strategy.project(scope, grads).items():
            scope.parameters[name].grad = g
    else:
        grads = {}
    if optimizer is not None:
        optimizer.step()
    if strategy.uses("after_step"):
        strategy.after_step(scope, grads)
    return loss.detach(), len(batch)


class StepCounter:
    """The operations of a step, counted once for each distinct shape of work of a task, outside the bill.

    The probe is a step that leaves no trace: no optimizer, and whatever the strategy, the norms or the random numbers
    went through is put back.
    """

    def __init__(self, run: Run, scope: Scope, task: Task):
        self.run, self.scope, self.task = run, scope, task
        self.known: dict[tuple, tuple[int, float]] = {}

    def __call__(self, batch: Batch) -> int:
        key = (len(batch), self.run.strategy.work(len(batch)))
        if key not in self.known:
            with self.run.meter.paused():
                self.known[key] = self._probe(batch)
        flops, full = self.known[key]
        self.run.full_flops += full
        return flops

    def _probe(self, batch: Batch) -> tuple[int, float]:
        run, seen = self.run, 0
        strategy = copy.deepcopy(run.strategy.state_dict())
        buffers = {name: b.clone() for name, b in run.model.named_buffers()}

        def work() -> None:
            nonlocal seen
            seen = train_step(run.strategy, self.scope, self.task, None, batch)[1]

        with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
            flops = count_flops(work)
        run.strategy.load_state_dict(strategy)
        with torch.no_grad():
            for name, b in run.model.named_buffers():
                b.copy_(buffers[name])
        for p in self.scope.parameters.values():
            p.grad = None
        self._measure_reference(batch)
        assert run.reference is not None
        return flops, run.reference.flops_per_sample * seen

    def _measure_reference(self, batch: Batch) -> None:
        """Price plain full fine-tuning once a run; its seconds at the first task that is not itself trained in full."""
        run = self.run
        partially = self.scope.names != everything(run.model)
        repeats = run.settings.reference_steps if partially else 0
        if run.reference is None or (repeats and run.reference.seconds_per_sample is None):
            run.reference = Reference.measure(
                run.model, batch.x, batch.y, self.task.mask(batch), run.optimizer, repeats=repeats
            )


class Lookout:
    """Look up from the steps now and then: show progress, stop on a loss that is no number, save a checkpoint."""

    def __init__(self, run: Run, task: Task, steps: int):
        self.run, self.task, self.steps = run, task, steps
        now = time.monotonic()
        self.next = now + LOOK_EVERY_S
        self.saved = now
        self.last = (now, run.meter.row.samples)

    def __call__(self, losses: Tensor, first: int) -> None:
        self.check(losses, first)
        now, run = time.monotonic(), self.run
        rate = (run.meter.row.samples - self.last[1]) / (now - self.last[0])
        self.last = (now, run.meter.row.samples)
        loss = float(losses[run.step - 1])
        for observer in run.observers:
            observer.progress(run, Progress(self.task.index, run.epoch, run.step, self.steps, loss, rate))
        if run.save is not None and now - self.saved >= run.settings.checkpoint_every_s:
            with run.meter.paused():
                run.save(run.state_dict())
            self.saved = time.monotonic()
        self.next = time.monotonic() + LOOK_EVERY_S

    def check(self, losses: Tensor, first: int) -> None:
        """Raise Diverged, naming the first step since `first` whose loss is not finite."""
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            run = self.run
            raise Diverged(
                f"The loss became {float(losses[bad[0]])} in task {self.task.index} ({self.task.name}), epoch "
                f"{run.epoch}, step {int(bad[0])}. Training stopped; the last good checkpoint is kept. "
                "A smaller optimizer.lr (or strategy strength) is the usual cure."
            )


def evaluate(run: Run, moment: int | None) -> list[float | None]:
    """Return the row after task `moment`: accuracy on the tasks learned and the next; before the first (None) on all."""
    last = len(run.stream) - 1 if moment is None else min(moment + 1, len(run.stream) - 1)
    row: list[float | None] = [None] * len(run.stream)
    correct, sizes = [], []
    with run.meter.phase("evaluate", moment), evaluating(run.model), torch.no_grad():
        for j in range(last + 1):
            source = evaluation_data(run.stream[j], run.settings.evaluate_on)
            visible = run.stream.visible_at(-1 if moment is None else moment, j)
            correct.append(_count_correct(run, source, visible))
            sizes.append(len(source))
        hits = torch.stack(correct).tolist()
    row[: last + 1] = [h / n for h, n in zip(hits, sizes, strict=True)]
    return row


def evaluation_data(task: Task, which: str) -> Source:
    """Return the task's test or validation data; UsageError where no share was held out."""
    if which == "test":
        return task.test
    if task.validation is None:
        raise UsageError("trainer.evaluate_on=validation: the stream holds out nothing. Set stream.validation=0.1.")
    return task.validation


def _count_correct(run: Run, source: Source, visible: Tensor | None) -> Tensor:
    correct = torch.zeros((), dtype=torch.int64, device=run.device)
    for batch in source.batches(run.settings.eval_batch_size):
        shape = tuple(batch.x.shape)
        if shape not in run._evaluation_flops:
            with run.meter.paused():
                run._evaluation_flops[shape] = count_flops(partial(run.model, batch.x, visible))
        correct += (run.model(batch.x, visible).argmax(1) == batch.y).sum()
        run.meter.step(len(batch), run._evaluation_flops[shape])
    return correct


def _step_cost(run: Run, task: Task, thawed: frozenset[str]) -> int:
    """Return the operations of one training step on a full batch of the task with `thawed` training."""
    batch = next(iter(task.train.batches(run.settings.batch_size)))
    return step_flops(run.model, batch.x, task.mask(batch), thawed)


def _open_optimizer(run: Run, scope: Scope) -> torch.optim.Optimizer:
    """Return an optimizer over the scope and nothing else, with the state that a checkpoint or earlier tasks left."""
    optimizer = run.optimizer(list(scope.parameters.values()))
    if run._resumed_optimizer is not None:
        optimizer.load_state_dict(run._resumed_optimizer)
        run._resumed_optimizer = None
    else:
        for name, p in scope.parameters.items():
            if name in run.optimizer_memory:
                optimizer.state[p] = {
                    k: _to(v, p.device) if k != "step" else v for k, v in run.optimizer_memory[name].items()
                }
    run.open_optimizer = optimizer
    return optimizer


def _close_optimizer(run: Run, scope: Scope, optimizer: torch.optim.Optimizer) -> None:
    """Keep the optimizer's state for the next task, or drop it, as trainer.optimizer_state says."""
    if run.settings.optimizer_state == "keep":
        run.optimizer_memory.update({name: dict(optimizer.state[p]) for name, p in scope.parameters.items()})
    run.open_optimizer = None


def _to(value: Any, device: torch.device) -> Any:
    """Return nested plain values with their tensors on `device`; random states stay where generators want them."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {k: v if str(k).endswith("generator") else _to(v, device) for k, v in value.items()}
    return [_to(v, device) for v in value] if isinstance(value, list) else value
