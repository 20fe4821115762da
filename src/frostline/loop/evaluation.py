"""A row of the matrices: what is evaluated after a task, on which data, and among which classes."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from frostline.core.checks import UsageError
from frostline.core.objectives import Classification, Objective
from frostline.core.rng import generator
from frostline.core.scope import evaluating
from frostline.core.types import Batch, Source, Task, TaskStream, masked
from frostline.costs import all_paused
from frostline.costs.flops import count_flops
from frostline.loop.progress import Progress, Row
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
        most = int(torch.bincount(task.train.labels.flatten().long()).max()) if task.train.labels.ndim == 1 else 0
        share = f"stream.validation={max(0.1, math.ceil(100 / most) / 100):g} or more" if most > 1 else "two or more"
        raise UsageError(
            f"trainer.evaluate_on=validation: nothing is held out of the {len(task.train)} samples of task {task.name}. "
            f"Expected {share}{'' if most > 1 else ' samples of each class, and stream.validation'}."
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
        found, said = run_columns(run, moment), []
        for column in found:
            with run.strategy.serving(run.model, column.task):
                said.append(_tally(run, column, read))
        record(run, found, said)


class Said(NamedTuple):
    """What the answers to a column were worth; `aware`: how many are right where the task is known, None where it is anyway."""

    right: Tensor  # bool, of every target
    loss: Tensor  # their sum
    aware: Tensor | None


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
                sums.append(_tally(run, column, partial(_some, order=order)).right.sum())
            counts.append(int(earlier.objective.asked(source.labels[order]).sum()))
        hits = torch.stack(sums).tolist()
    right: Row = [hit / count for hit, count in zip(hits, counts, strict=True)]
    steps = run.meter.spent()[0]
    run.progress.within.append([float(task), float(steps), *right, *[None] * (len(run.stream) - task - 1)])


def _some(run: Run, column: Column, order: Tensor) -> Iterator[Work]:
    for batch in column.source.batches(run.eval_batch_size, order):
        yield Work(batch, partial(run.model, batch.x))


def _tally(run: Run, column: Column, read: Reader) -> Said:
    """Return what the answers are worth, still on the device."""
    own = own_classes(run.stream, column).to(run.device) if knows_more(run.stream, column) else None
    right, loss, aware = [], torch.zeros((), device=run.device), torch.zeros((), dtype=torch.int64, device=run.device)
    for work in read(run, column):
        run.meter.step(len(work.batch), operations(run, work, [run]))
        y = work.batch.y
        if run.rehearsal is not None:
            with run.rehearsal.piece(_kind(run, work), run.meter) as wanted:
                if wanted:
                    work.call()
            right.append(torch.zeros_like(y, dtype=torch.bool).flatten())
            continue
        raw = work.call()
        logits = masked(raw, column.visible)
        right.append(column.objective.hits(logits, y).flatten())
        loss += column.objective.nll(logits.float(), y).sum()
        if own is not None:
            aware += column.objective.hits(masked(raw, own), y).sum()
    return Said(torch.cat(right), loss, None if own is None else aware)


def knows_more(stream: TaskStream, column: Column) -> bool:
    """Tell whether knowing a sample's task would narrow its classes down, which the stream does not let it."""
    return stream.scenario == "class" and column.task is not None and isinstance(column.objective, Classification)


def own_classes(stream: TaskStream, column: Column) -> Tensor:
    """Return the classes of a task's test data, bool [C]."""
    return torch.zeros(stream.classes, dtype=torch.bool).index_fill(0, column.source.labels, True)


def operations(run: Run, work: Work, billed: Sequence[Run]) -> int:
    """Return the operations of evaluating the batch, counted once for each shape of work, off everybody's bill."""
    key = _kind(run, work)
    if key not in run.evaluation_flops:
        with all_paused([each.meter for each in billed]):
            run.evaluation_flops[key] = count_flops(work.whole or work.call, run.meter.uncounted)
    return run.evaluation_flops[key]


def _kind(run: Run, work: Work) -> tuple:
    """Return what decides the operations of evaluating a batch."""
    since = None if run.strategy.steady else len(run.progress.accuracy)  # what serves may do more than it did
    return (run.shape, len(work.batch), tuple(work.batch.x.shape), work.kind, since)


def record(run: Run, found: Sequence[Column], said: Sequence[Said]) -> None:
    """Add the row to the run's matrices; cells that were not evaluated are None, and so is a loss that is infinite.

    Raises Diverged where what answers puts out no numbers: an accuracy of such answers would look like one.
    """
    progress, tasks = run.progress, len(run.stream)
    asked = [int(column.objective.asked(column.source.labels).sum()) for column in found]
    targets = [int(column.objective.counted(column.source.labels).sum()) for column in found]
    losses = torch.stack([answer.loss for answer in said]).tolist()
    aware = torch.stack([said[0].loss if answer.aware is None else answer.aware for answer in said]).tolist()
    each = [answer.right.cpu() for answer in said]
    right: Row = [int(hits.sum()) / count for hits, count in zip(each, asked, strict=True)]
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
    known: Row = [
        None if answer.aware is None else hits / count for answer, hits, count in zip(said, aware, asked, strict=True)
    ]
    progress.aware.append(known[:own] + [None] * (tasks - own))
    _note_flips(progress, found, each)
    for suite, accuracy, value in zip(run.stream.suites, right[own:], loss[own:], strict=True):
        column = progress.held_out.setdefault(suite.name, {"accuracy": [], "loss": []})
        column["accuracy"].append(accuracy)
        column["loss"].append(value)


def _note_flips(progress: Progress, found: Sequence[Column], each: Sequence[Tensor]) -> None:
    """Note how much became wrong and right on earlier tasks since the last evaluation."""
    earlier, learned = len(progress.right), len(progress.accuracy) - 1
    if earlier:
        real = torch.cat([column.objective.asked(column.source.labels).flatten() for column in found[:earlier]])
        before, now = torch.cat(progress.right), torch.cat(list(each[:earlier]))
        changed = [int((old & ~new & real).sum()) for old, new in ((before, now), (now, before))]
        progress.flips.append([*changed, int(real.sum())])
    progress.right = list(each[:learned])


def record_nothing(run: Run) -> None:
    """Add a row for a task that was waited through."""
    progress, empty = run.progress, [None] * len(run.stream)
    progress.accuracy.append(list(empty))
    progress.loss.append(list(empty))
    progress.aware.append(list(empty))
    for suite in run.stream.suites:
        column = progress.held_out.setdefault(suite.name, {"accuracy": [], "loss": []})
        column["accuracy"].append(None)
        column["loss"].append(None)
