"""How much of one's own data is kept: fewer samples of each class, and a share that is held out of what is learned from."""

from dataclasses import replace

import torch
from torch import Tensor

from frostline.core.checks import UsageError, in_range
from frostline.core.rng import generator
from frostline.core.sources import TensorSource
from frostline.core.types import Source, TaskStream
from frostline.streams.token_files import FileWindows


def keep(
    stream: TaskStream,
    *,
    validation: float = 0.0,
    samples_per_class: int | None = None,
    test_samples_per_class: int | None = None,
    seed: int = 0,
) -> TaskStream:
    """Return the stream with so many samples of each class, and the share `validation` of what is left held out.

    Samples are kept at random by (seed, task). Of samples with one label the same share of each class is held out, of which
    one at least stays; of windows of text the last ones, as their neighbours say much about them.
    """
    in_range("stream.validation", validation, 0, 0.9)
    in_range("stream.samples_per_class", samples_per_class, 1)
    in_range("stream.test_samples_per_class", test_samples_per_class, 1)
    tasks = []
    for task in stream.tasks:
        train = _thinned(task.train, samples_per_class, seed, task.index)
        test = _thinned(task.test, test_samples_per_class, seed, task.index)
        held = _held_out(train, validation, seed, task.index) if validation else None
        if held is not None and held.any():
            tasks.append(replace(task, train=_part(train, ~held), test=test, validation=_part(train, held)))
        else:
            tasks.append(replace(task, train=train, test=test))
    return replace(stream, tasks=tuple(tasks))


def held_out(y: Tensor, share: float) -> Tensor:
    """Return which samples [n] of classes y are held out, bool: the first of each class, of which at least one stays."""
    held = torch.zeros(len(y), dtype=torch.bool)
    for label in y.unique():
        rows = (y == label).nonzero().squeeze(1)
        held[rows[: min(int(share * len(rows)), len(rows) - 1)]] = True
    return held


def _thinned(source: Source, per_class: int | None, seed: int, task: int) -> Source:
    if per_class is None:
        return source
    y = source.labels
    if y.ndim > 1 or y.is_floating_point():
        raise UsageError("stream.samples_per_class: these targets are no classes of samples. Expected null.")
    order = torch.randperm(len(y), generator=generator(seed, "subset", task))
    kept = torch.zeros(len(y), dtype=torch.bool)
    for label in y.unique():
        kept[order[y[order] == label][:per_class]] = True
    return _part(source, kept)


def _held_out(source: Source, share: float, seed: int, task: int) -> Tensor:
    y = source.labels
    if y.ndim > 1:
        return torch.arange(len(y)) >= len(y) - min(int(share * len(y)), len(y) - 1)
    order = torch.randperm(len(y), generator=generator(seed, "held out", task))
    held = torch.zeros(len(y), dtype=torch.bool)
    held[order] = held_out(torch.zeros(len(y)) if y.is_floating_point() else y[order], share)
    return held


def _part(source: Source, which: Tensor) -> Source:
    if isinstance(source, FileWindows):
        return source.part(which)
    if not isinstance(source, TensorSource):
        raise UsageError(f"{type(source).__name__}: no part of it can be kept apart. Expected samples in memory.")
    return TensorSource(
        source.x, source.labels[which], source.rows[which], source.task[which], transform=source.transform
    )
