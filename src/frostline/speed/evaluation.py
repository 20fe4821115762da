"""A row of the matrices for several runs in one pass, where none of them has anything of its own to start from."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from frostline.core.scope import evaluating
from frostline.core.sources import TensorSource
from frostline.core.types import Batch
from frostline.loop.evaluation import Column, Work, operations, record, run_columns
from frostline.loop.run import Run
from frostline.speed.stacking import Stack, pays


def one_pass_serves(runs: Sequence[Run], moment: int | None) -> bool:
    """Tell whether one pass can evaluate all runs, and gains by it."""
    if len(runs) == 1 or any(run.strategy.uses("serving") for run in runs):
        return False
    sizes = {tuple(len(column.source) for column in run_columns(run, moment)) for run in runs}
    return len(sizes) == 1 and all(pays(run.model, run.device) for run in runs)


def evaluate_together(runs: Sequence[Run], moment: int | None) -> None:
    """Evaluate the runs, data that they share read once, and add a row to each."""
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.meter.phase("evaluate", moment, among=len(runs)))
            stack.enter_context(evaluating(run.model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(runs[0].casting())
        classify = Stack([run.model for run in runs], frozenset(), [run.drawing for run in runs]).classifier()
        own = [run_columns(run, moment) for run in runs]
        hits, losses = [], []
        for columns in zip(*own, strict=True):
            masks = [column.visible for column in columns if column.visible is not None]
            visible = torch.stack(masks) if masks else None
            hit = torch.zeros(len(runs), dtype=torch.int64, device=runs[0].device)
            loss = torch.zeros(len(runs), device=runs[0].device)
            for batches in _batches(columns, runs[0].eval_batch_size):
                work = Work(batches[0], partial(runs[0].model, batches[0].x))
                cost = operations(runs[0], work, runs)
                for run in runs:
                    run.meter.step(len(batches[0]), cost)
                x = _stacked([batch.x for batch in batches], len(runs))
                y = _stacked([batch.y for batch in batches], len(runs))
                logits = classify(x)
                if visible is not None:
                    logits = torch.where(visible.view(len(runs), *(1,) * (logits.ndim - 2), -1), logits, -torch.inf)
                objective = columns[0].objective
                hit += objective.hits(logits, y).flatten(1).sum(1)
                each = objective.nll(logits.float().flatten(0, 1), y.flatten(0, 1))
                loss += each.view(len(runs), -1).sum(1)
            hits.append(hit)
            losses.append(loss)
        found = torch.stack(hits, 1).tolist(), torch.stack(losses, 1).tolist()
        for run, columns, right, loss in zip(runs, own, *found, strict=True):
            record(run, columns, right, loss)


def _batches(columns: Sequence[Column], size: int) -> Iterator[tuple[Batch, ...]]:
    """Yield each run's batch, or the one batch that is everybody's."""
    sources = [column.source for column in columns]
    first = sources[0]
    if isinstance(first, TensorSource) and all(first.equals(other) for other in sources):
        sources = [first]
    return zip(*(source.batches(size) for source in sources), strict=True)


def _stacked(parts: Sequence[Tensor], seeds: int) -> Tensor:
    """Return S tensors as one [S, ...]; a single one is everybody's, and not copied."""
    return torch.stack(list(parts)) if len(parts) > 1 else parts[0].expand(seeds, *parts[0].shape)
