"""A row of the accuracy matrix, and the right data for it."""

from functools import partial

import torch
from torch import Tensor

from frostline.checks import UsageError
from frostline.features import State
from frostline.flops import count_flops
from frostline.run import Run
from frostline.scope import evaluating
from frostline.types import Batch, Source, Task


def evaluate(run: Run, moment: int | None) -> list[float | None]:
    """Return the row after task `moment`: accuracy on the tasks learned and the next; before the first (None) on all."""
    last = len(run.stream) - 1 if moment is None else min(moment + 1, len(run.stream) - 1)
    row: list[float | None] = [None] * len(run.stream)
    correct, sizes = [], []
    with run.meter.phase("evaluate", moment) as bill, evaluating(run.model), torch.no_grad(), run.casting():
        run.features.look(run.model)
        with run.meter.paused():  # what a kill took; the bill has it already
            for j in run.features.take_owed():
                source = evaluation_data(run.stream[j], run.settings.evaluate_on)
                batches = source.batches(run.eval_batch_size)
                run.features.keep(j, [run.features.before(run.model, batch.x) for batch in batches])
        for j in range(last + 1):
            source = evaluation_data(run.stream[j], run.settings.evaluate_on)
            visible = run.stream.visible_at(-1 if moment is None else moment, j)
            correct.append(_count_correct(run, j, source, visible))
            sizes.append(len(source))
        hits = torch.stack(correct).tolist()
        bill.stored_bytes = run.features.nbytes
    row[: last + 1] = [h / n for h, n in zip(hits, sizes, strict=True)]
    return row


def evaluation_data(task: Task, which: str) -> Source:
    """Return the task's test or validation data; UsageError where no share was held out."""
    if which == "test":
        return task.test
    if task.validation is None:
        raise UsageError("trainer.evaluate_on=validation: the stream holds out nothing. Set stream.validation=0.1.")
    return task.validation


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
        run.meter.step(len(batch), _operations(run, batch, held is None))
        correct += (work().argmax(1) == batch.y).sum()
    if states and held is None:
        features.keep(task, states)
    return correct


def _operations(run: Run, batch: Batch, whole: bool) -> int:
    """Return the operations of evaluating the batch, counted once for each shape of work, off the bill."""
    features, model = run.features, run.model
    key = (tuple(batch.x.shape), None if whole else (features.line, len(batch)))
    if key not in run.evaluation_flops:
        with run.meter.paused():
            if whole:
                run.evaluation_flops[key] = count_flops(partial(model, batch.x))
            else:
                state = next(s for states in features.held.values() for s in states if len(s[0]) == len(batch))
                run.evaluation_flops[key] = count_flops(partial(features.logits, model, state, None))
    return run.evaluation_flops[key]
