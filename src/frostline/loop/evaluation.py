"""A row of the matrices: what is evaluated after a task, on which data, and among which classes."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from frostline.core.checks import UsageError
from frostline.core.objectives import Objective
from frostline.core.rng import generator
from frostline.core.scope import evaluating
from frostline.core.types import Batch, Source, Task, TaskStream, masked
from frostline.costs import all_paused
from frostline.costs.flops import count_flops
from frostline.loop.progress import Row
from frostline.loop.run import Diverged, Run


@dataclass(frozen=True)
class Column:
    """Data that are evaluated as one: a task's, or a held-out suite's; `key` is its own in a run."""

    key: str
    source: Source
    visible: Tensor | None
    objective: Objective
    task: Task | None = None


class Work(NamedTuple):
    """A batch to evaluate: `call` makes raw logits; `whole` is all the work that this takes, where some was done before.

    kind: what decides the operations beside the shape of the batch.
    """

    batch: Batch
    call: Callable[[], Tensor]
    whole: Callable[[], Tensor] | None = None
    kind: object = None


Reader = Callable[[Run, Column], Iterator[Work]]


def evaluation_data(task: Task, which: str) -> Source:
    """Return the task's test or validation data; UsageError where no share was held out."""
    if which == "test":
        return task.test
    if task.validation is None:
        raise UsageError(
            f"trainer.evaluate_on=validation: nothing is held out of the {len(task.train)} samples of task {task.name}. "
            "Expected stream.validation=0.1, say, or more samples of each class."
        )
    return task.validation


def columns(stream: TaskStream, which: str, moment: int | None) -> list[Column]:
    """Return what is evaluated after task `moment`: the tasks learned and the next, all before the first; then the suites."""
    count = len(stream) if moment is None else min(moment + 2, len(stream))
    found = [
        Column(
            str(task.index),
            evaluation_data(task, which),
            stream.visible_at(-1 if moment is None else moment, task.index),
            task.objective,
            task,
        )
        for task in stream.tasks[:count]
    ]
    return found + [
        Column(f"suite {suite.name}", suite.source, suite.visible, suite.objective) for suite in stream.suites
    ]


def run_columns(run: Run, moment: int | None) -> list[Column]:
    """Return the columns of the run's row."""
    return columns(run.stream, run.settings.evaluate_on, moment)


def plainly(run: Run, column: Column) -> Iterator[Work]:
    """Yield the column's batches with the whole model's forward pass."""
    for batch in column.source.batches(run.eval_batch_size):
        yield Work(batch, partial(run.model, batch.x))


def evaluate_alone(run: Run, moment: int | None, read: Reader = plainly) -> None:
    """Evaluate one run, as its strategy serves, and add the row."""
    with run.meter.phase("evaluate", moment), evaluating(run.model), torch.no_grad(), run.casting():
        found = run_columns(run, moment)
        sums = []
        for column in found:
            with run.strategy.serving(run.model, column.task):
                sums.append(_tally(run, column, read))
        hits, losses = (torch.stack(part).tolist() for part in zip(*sums, strict=True))
        record(run, found, hits, losses)


def evaluate_within(run: Run, task: int) -> None:
    """Evaluate a run in the middle of a task, on that task and those before it, as its strategy would answer now."""
    samples, settings = run.settings.evaluate_samples, run.settings
    with run.meter.phase("evaluate", task), evaluating(run.model), torch.no_grad(), run.casting():
        sums, counts = [], []
        for earlier in run.stream.tasks[: task + 1]:
            source = evaluation_data(earlier, settings.evaluate_on)
            order = torch.randperm(len(source), generator=generator("within", earlier.index))[:samples]
            column = Column("", source, run.stream.visible_at(task, earlier.index), earlier.objective, earlier)
            with run.strategy.serving(run.model, earlier):
                sums.append(_tally(run, column, partial(_some, order=order))[0])
            counts.append(int(earlier.objective.counted(source.labels[order]).sum()))
        hits = torch.stack(sums).tolist()
    right: Row = [hit / count for hit, count in zip(hits, counts, strict=True)]
    steps = run.meter.spent()[0]
    run.progress.within.append([float(task), float(steps), *right, *[None] * (len(run.stream) - task - 1)])


def _some(run: Run, column: Column, order: Tensor) -> Iterator[Work]:
    for batch in column.source.batches(run.eval_batch_size, order):
        yield Work(batch, partial(run.model, batch.x))


def _tally(run: Run, column: Column, read: Reader) -> tuple[Tensor, Tensor]:
    """Return how many targets were right and the sum of their losses, still on the device."""
    device = run.device
    hits, losses = torch.zeros((), dtype=torch.int64, device=device), torch.zeros((), device=device)
    for work in read(run, column):
        run.meter.step(len(work.batch), operations(run, work, [run]))
        logits, y = masked(work.call(), column.visible), work.batch.y
        hits += column.objective.hits(logits, y).sum()
        losses += column.objective.nll(logits.float(), y).sum()
    return hits, losses


def operations(run: Run, work: Work, billed: Sequence[Run]) -> int:
    """Return the operations of evaluating the batch, counted once for each shape of work, off everybody's bill."""
    since = None if run.strategy.steady else len(run.progress.accuracy)  # what serves may do more than it did
    key = (run.shape, len(work.batch), tuple(work.batch.x.shape), work.kind, since)
    if key not in run.evaluation_flops:
        with all_paused([each.meter for each in billed]):
            run.evaluation_flops[key] = count_flops(work.whole or work.call, run.meter.uncounted)
    return run.evaluation_flops[key]


def record(run: Run, found: Sequence[Column], hits: Sequence[float], losses: Sequence[float]) -> None:
    """Add the row to the run's matrices; cells that were not evaluated are None, and so is a loss that is infinite.

    Raises Diverged where what answers puts out no numbers: an accuracy of such answers would look like one.
    """
    progress, tasks = run.progress, len(run.stream)
    targets = [int(column.objective.counted(column.source.labels).sum()) for column in found]
    right: Row = [hit / count for hit, count in zip(hits, targets, strict=True)]
    for column, value in zip(found, losses, strict=True):
        if math.isnan(value):
            data = f"task {column.task.index} ({column.task.name})" if column.task else column.key
            raise Diverged(
                f"The loss on the data of {data} is nan, evaluated after {len(progress.accuracy)} tasks: the net, or what the "
                "strategy answers with, puts out values that are no numbers. A smaller optimizer.lr is the usual cure.",
                run.folder,
            )
    loss: Row = [value / n if math.isfinite(value) else None for value, n in zip(losses, targets, strict=True)]
    own = len(found) - len(run.stream.suites)
    progress.accuracy.append(right[:own] + [None] * (tasks - own))
    progress.loss.append(loss[:own] + [None] * (tasks - own))
    for suite, accuracy, value in zip(run.stream.suites, right[own:], loss[own:], strict=True):
        column = progress.held_out.setdefault(suite.name, {"accuracy": [], "loss": []})
        column["accuracy"].append(accuracy)
        column["loss"].append(value)


def record_nothing(run: Run) -> None:
    """Add a row for a task that was waited through."""
    progress, empty = run.progress, [None] * len(run.stream)
    progress.accuracy.append(list(empty))
    progress.loss.append(list(empty))
    for suite in run.stream.suites:
        column = progress.held_out.setdefault(suite.name, {"accuracy": [], "loss": []})
        column["accuracy"].append(None)
        column["loss"].append(None)
