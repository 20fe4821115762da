"""A row of the matrices for several runs in one pass, where none of them has anything of its own to start from."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from frostline.core.scope import evaluating
from frostline.core.sources import TensorSource
from frostline.core.types import Batch
from frostline.loop.evaluation import Column, Said, Work, knows_more, operations, own_classes, record, run_columns
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
        said: list[list[Said]] = [[] for _ in runs]
        for columns in zip(*own, strict=True):
            masks = [column.visible for column in columns if column.visible is not None]
            visible = torch.stack(masks) if masks else None
            owns = [
                own_classes(run.stream, c) for run, c in zip(runs, columns, strict=True) if knows_more(run.stream, c)
            ]
            mine = torch.stack(owns).to(runs[0].device) if owns else None
            right, aware = [], torch.zeros(len(runs), dtype=torch.int64, device=runs[0].device)
            loss = torch.zeros(len(runs), device=runs[0].device)
            for batches in _batches(columns, runs[0].eval_batch_size):
                work = Work(batches[0], partial(runs[0].model, batches[0].x))
                cost = operations(runs[0], work, runs)
                for run in runs:
                    run.meter.step(len(batches[0]), cost)
                x = _stacked([batch.x for batch in batches], len(runs))
                y = _stacked([batch.y for batch in batches], len(runs))
                raw = classify(x)
                objective = columns[0].objective
                logits = raw if visible is None else _masked(raw, visible)
                right.append(objective.hits(logits, y).flatten(1))
                if mine is not None:
                    aware += objective.hits(_masked(raw, mine), y).flatten(1).sum(1)
                each = objective.nll(logits.float().flatten(0, 1), y.flatten(0, 1))
                loss += each.view(len(runs), -1).sum(1)
            for place, row in enumerate(torch.cat(right, 1)):
                said[place].append(Said(row, loss[place], None if mine is None else aware[place]))
        for run, columns, answers in zip(runs, own, said, strict=True):
            record(run, columns, answers)


def _masked(raw: Tensor, visible: Tensor) -> Tensor:
    """Return logits [S, B, ..., C] in which each run's invisible classes, of visible [S, C], are -inf."""
    return torch.where(visible.view(len(raw), *(1,) * (raw.ndim - 2), -1), raw, -torch.inf)


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
