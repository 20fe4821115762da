"""A row of the accuracy matrix, and the right data for it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from frostline.checks import UsageError
from frostline.costs import all_paused
from frostline.features import State
from frostline.flops import count_flops
from frostline.run import Run
from frostline.scope import evaluating
from frostline.sources import TensorSource
from frostline.stacking import Stack, pays
from frostline.types import Batch, Source, Task

Row = list[float | None]


def evaluate(runs: Sequence[Run], moment: int | None) -> list[Row]:
    """Return each run's row after task `moment`: accuracy on the tasks learned and the next; before the first (None) on all.

    Runs with dense models of which no stage stood still are evaluated in one pass.
    """
    for run in runs:
        with run.meter.phase("evaluate", moment):
            run.features.look(run.model)
    if len(runs) > 1 and _one_pass_serves(runs):
        return _together(runs, moment)
    rows = []
    for run in runs:
        with run.drawing():
            rows.append(_alone(run, moment))
    return rows


def evaluation_data(task: Task, which: str) -> Source:
    """Return the task's test or validation data; UsageError where no share was held out."""
    if which == "test":
        return task.test
    if task.validation is None:
        raise UsageError("trainer.evaluate_on=validation: the stream holds out nothing. Set stream.validation=0.1.")
    return task.validation


def _source(run: Run, task: int) -> Source:
    return evaluation_data(run.stream[task], run.settings.evaluate_on)


def _visible(run: Run, moment: int | None, task: int) -> Tensor | None:
    return run.stream.visible_at(-1 if moment is None else moment, task)


def _evaluated(run: Run, moment: int | None) -> range:
    """Return the tasks of the row."""
    return range(len(run.stream) if moment is None else min(moment + 2, len(run.stream)))


def _row(hits: Sequence[int], run: Run) -> Row:
    known: Row = [count / len(_source(run, task)) for task, count in enumerate(hits)]
    return known + [None] * (len(run.stream) - len(known))


def _alone(run: Run, moment: int | None) -> Row:
    with run.meter.phase("evaluate", moment) as bill, evaluating(run.model), torch.no_grad(), run.casting():
        with run.meter.paused():  # what a kill took; the bill has it already
            for j in run.features.take_owed():
                batches = _source(run, j).batches(run.eval_batch_size)
                run.features.keep(j, [run.features.before(run.model, batch.x) for batch in batches])
        correct = [_count_correct(run, j, _source(run, j), _visible(run, moment, j)) for j in _evaluated(run, moment)]
        hits = torch.stack(correct).tolist()
        bill.stored_bytes = run.features.nbytes
    return _row(hits, run)


def _count_correct(run: Run, task: int, source: Source, visible: Tensor | None) -> Tensor:
    features, held = run.features, run.features.held.get(task)
    states: list[State] = []
    correct = torch.zeros((), dtype=torch.int64, device=run.device)
    for number, batch in enumerate(source.batches(run.eval_batch_size, samples=held is None)):
        if not features.line:
            work = partial(run.model, batch.x, visible)
        else:
            states.append(features.before(run.model, batch.x) if held is None else held[number])
            work = partial(features.logits, run.model, states[-1], visible)
        run.meter.step(len(batch), _operations(run, batch, held is None, [run]))
        correct += (work().argmax(1) == batch.y).sum()
    if states and held is None:
        features.keep(task, states)
    return correct


def _operations(run: Run, batch: Batch, whole: bool, billed: Sequence[Run]) -> int:
    """Return the operations of evaluating the batch, counted once for each shape of work, off everybody's bill."""
    features, model = run.features, run.model
    key = (tuple(batch.x.shape), None if whole else (features.line, len(batch)))
    if key not in run.evaluation_flops:
        with all_paused([each.meter for each in billed]):
            if whole:
                run.evaluation_flops[key] = count_flops(partial(model, batch.x))
            else:
                state = next(s for states in features.held.values() for s in states if len(s[0]) == len(batch))
                run.evaluation_flops[key] = count_flops(partial(features.logits, model, state, None))
    return run.evaluation_flops[key]


def _one_pass_serves(runs: Sequence[Run]) -> bool:
    """Tell whether one pass can evaluate all runs, and gains by it."""
    sizes = {tuple(len(_source(run, task)) for task in range(len(run.stream))) for run in runs}
    return len(sizes) == 1 and all(pays(run.model, run.device) and not run.features.line for run in runs)


def _together(runs: Sequence[Run], moment: int | None) -> list[Row]:
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.meter.phase("evaluate", moment, among=len(runs)))
            stack.enter_context(evaluating(run.model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(runs[0].casting())
        classify = Stack([run.model for run in runs], frozenset(), [run.drawing for run in runs]).classifier()
        correct = []
        for task in _evaluated(runs[0], moment):
            masks = [mask for run in runs if (mask := _visible(run, moment, task)) is not None]
            visible = torch.stack(masks).unsqueeze(1) if masks else None
            count = torch.zeros(len(runs), dtype=torch.int64, device=runs[0].device)
            for batches in _batches(runs, task):
                operations = _operations(runs[0], batches[0], True, runs)
                for run in runs:
                    run.meter.step(len(batches[0]), operations)
                x = _stacked([batch.x for batch in batches], len(runs))
                y = _stacked([batch.y for batch in batches], len(runs))
                count += (classify(x, visible).argmax(2) == y).sum(1)
            correct.append(count)
        hits = torch.stack(correct, 1).tolist()
    return [_row(own, run) for own, run in zip(hits, runs, strict=True)]


def _batches(runs: Sequence[Run], task: int) -> Iterator[tuple[Batch, ...]]:
    """Yield each run's batch, or the one batch that is everybody's."""
    sources = [_source(run, task) for run in runs]
    first = sources[0]
    if isinstance(first, TensorSource) and all(first.equals(other) for other in sources):
        sources = [first]
    return zip(*(source.batches(runs[0].eval_batch_size) for source in sources), strict=True)


def _stacked(parts: Sequence[Tensor], seeds: int) -> Tensor:
    """Return S tensors as one [S, ...]; a single one is everybody's, and not copied."""
    return torch.stack(list(parts)) if len(parts) > 1 else parts[0].expand(seeds, *parts[0].shape)
