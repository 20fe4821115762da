"""A row of the accuracy matrix, and the right data for it."""

from functools import partial

import torch
from torch import Tensor

from frostline.checks import UsageError
from frostline.flops import count_flops
from frostline.run import Run
from frostline.scope import evaluating
from frostline.types import Source, Task


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
        if shape not in run.evaluation_flops:
            with run.meter.paused():
                run.evaluation_flops[shape] = count_flops(partial(run.model, batch.x, visible))
        correct += (run.model(batch.x, visible).argmax(1) == batch.y).sum()
        run.meter.step(len(batch), run.evaluation_flops[shape])
    return correct
