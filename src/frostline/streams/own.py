"""Streams from data that somebody has at hand: pairs of training and test data, a task each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from frostline.core.checks import UsageError, one_of
from frostline.core.loaders import LoaderSource
from frostline.core.objectives import OBJECTIVES, Classification, Objective
from frostline.core.sources import TensorSource
from frostline.core.types import Source, Task, TaskStream
from frostline.streams.assembling import SCENARIOS, visible_classes

Data = Any  # (x, y) as tensors, arrays or lists; a map-style data set of (x, y); a Source
IN_MEMORY = 2**31  # bytes up to which a data set is read once and kept


def from_tasks(
    tasks: Iterable[Sequence[Data]],
    *,
    scenario: str = "class",
    names: Sequence[str] | None = None,
    classes: int | None = None,
    name: str = "own",
    objective: str | Objective = "classification",
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> TaskStream:
    """Return a stream of one task for each (train, test).

    Each is (x, y), as tensors, arrays or lists, or a map-style data set whose items are (x, y). scenario: 'class' decides among
    all classes seen so far, 'task' among the task's own, 'domain' among all. classes: number of logits, the largest label plus
    one where None. A data set that is too large for memory is read by `workers` processes, batch by batch.
    """
    one_of("scenario", scenario, SCENARIOS)
    if isinstance(tasks, Mapping | str) or not isinstance(tasks, Iterable):
        raise UsageError(f"from_tasks: expected a list of (train, test), a pair for each task, not {tasks!r:.60}.")
    tasks = list(tasks)
    if not tasks:
        raise UsageError("from_tasks: expected at least one (train, test).")
    if isinstance(objective, str):
        one_of("objective", objective, OBJECTIVES)
    kind = OBJECTIVES[objective]() if isinstance(objective, str) else objective
    if names is not None and (len(names) != len(tasks) or len(set(names)) < len(tasks)):
        raise UsageError(f"from_tasks: names={list(names)} for {len(tasks)} tasks. Expected a different one for each.")
    columns: list[str] = []  # of data frames: the same in all tasks, whatever their order
    sources: list[tuple[Source, Source]] = []
    for number, pair in enumerate(tasks):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UsageError(f"from_tasks: task {number} is {type(pair).__name__}; expected a pair (train, test).")
        where = [f"task {number}, {part} data" for part in ("training", "test")]
        train, test = (
            _source(_ordered(d, columns, w), number, w, device, workers) for d, w in zip(pair, where, strict=True)
        )
        sources.append((train, test))
    shapes = {_shape(source) for pair in sources for source in pair}
    if len(shapes) > 1:
        raise UsageError(f"from_tasks: samples of different shapes, {sorted(shapes)}. Expected one shape in all tasks.")
    labels = [_labels(pair, number, kind) for number, pair in enumerate(sources)]
    _check_labels(sources, labels, classes, kind)
    width = classes or (1 + max((c for own in labels for c in own), default=0))
    if max((c for own in labels for c in own), default=0) >= width:
        raise UsageError(
            f"from_tasks: classes={classes}, but there is a label {max(max(own) for own in labels if own)}."
        )
    visible: list[Any] = [None] * len(sources)
    if isinstance(kind, Classification) and labels[0]:
        visible = visible_classes(labels, width, scenario, str(device))
    made = tuple(
        Task(t, names[t] if names else str(t), tuple(labels[t]), train, test, visible=visible[t], objective=kind)
        for t, (train, test) in enumerate(sources)
    )
    return TaskStream(name, scenario, made, width, shapes.pop())


def _source(data: Data, task: int, where: str, device: torch.device | str, workers: int) -> Source:
    if isinstance(data, Source):
        return data
    if isinstance(data, tuple | list) and len(data) == 2 and not _is_pair_of_scalars(data):
        x, y = (_tensor(part, where) for part in data)
        if len(x) != len(y) or not len(x):
            raise UsageError(
                f"from_tasks: {where}: {len(x)} samples with {len(y)} targets. Expected as many, and some."
            )
        return TensorSource(_finite(_samples(x), where).to(device), _targets(y), torch.arange(len(x)), task)
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise UsageError(
            f"from_tasks: {where}: cannot use {type(data).__name__}. Expected (x, y) as tensors, arrays or lists, or a "
            "map-style data set, one with __len__ and __getitem__."
        )
    return _of_dataset(data, task, where, device, workers)


def _ordered(data: Data, columns: list[str], where: str) -> Data:
    """Return (x, y) with the columns of a data frame x in the order of the first one; refuse other columns."""
    if _is_frame(data):
        raise UsageError(
            f"from_tasks: {where}: a data frame without its labels apart. Expected (x, y); streams.from_table takes a frame "
            "with a column of labels."
        )
    if not isinstance(data, tuple | list) or not len(data) or not _is_frame(data[0]):
        return data
    own = list(data[0].columns)
    columns += own if not columns else []
    if set(own) != set(columns):
        odd = sorted(map(str, set(own) ^ set(columns)))
        raise UsageError(
            f"from_tasks: {where}: the column {odd[0]!r} is not in all data frames. Expected the same in all."
        )
    words = [str(c) for c in own if data[0][c].dtype.kind not in "biuf"]
    if words:
        raise UsageError(
            f"from_tasks: {where}: column {words[0]!r} holds no numbers. streams.from_table makes columns of words."
        )
    return (data[0][columns], *data[1:])


def _is_frame(data: Any) -> bool:
    return hasattr(data, "columns") and hasattr(data, "iloc")


def _of_dataset(data: Any, task: int, where: str, device: torch.device | str, workers: int) -> Source:
    """Read a data set once and keep it; one that is too large, or random, is read batch by batch."""
    if not len(data):
        raise UsageError(f"from_tasks: {where}: {type(data).__name__} has no samples.")
    first = data[0]
    if not isinstance(first, tuple | list) or len(first) < 2:
        raise UsageError(
            f"from_tasks: {where}: items of {type(data).__name__} are not (x, y), but {type(first).__name__}."
        )
    sample = _samples(_tensor(first[0], where)[None])[0]
    size = sample.numel() * sample.element_size()
    random = any(
        not np.array_equal(*(np.asarray(data[i][0]) for _ in range(2)), equal_nan=True)
        for i in range(min(8, len(data)))
    )
    if size * len(data) <= IN_MEMORY and not random:
        items = [data[i] for i in tqdm(range(len(data)), f"reading {where}", delay=2, leave=False, disable=None)]
        x = torch.stack([_samples(_tensor(item[0], where)[None])[0] for item in items])
        y = _targets(_tensor(np.array([np.asarray(item[1]) for item in items]), where))
        return TensorSource(_finite(x, where).to(device), y, torch.arange(len(x)), task)
    targets = getattr(data, "targets", None)
    y = _tensor(targets if targets is not None else [data[i][1] for i in range(len(data))], where)
    return LoaderSource(
        _Samples(data), y, torch.arange(len(data)), task, device=torch.device(device), workers=workers, sample_bytes=size,
        random=random,
    )  # fmt: skip


class _Samples(Dataset):
    """Somebody's data set, its samples as those of a data set that is read at once."""

    def __init__(self, data: Any):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        x, y = self.data[index][:2]
        return _samples(torch.as_tensor(np.asarray(x))), y


def _is_pair_of_scalars(data: Any) -> bool:
    return all(isinstance(part, int | float) for part in data)


def _tensor(value: Any, where: str) -> Tensor:
    if not isinstance(value, Tensor) and np.asarray(value).dtype.kind in "USO":
        raise UsageError(
            f"from_tasks: {where}: {str(np.asarray(value).flat[0])!r} is no number. Words are numbered by "
            "numpy.unique(y, return_inverse=True)[1], over all tasks at once."
        )
    try:
        return value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.require(value, requirements="W"))
    except (TypeError, ValueError) as error:
        raise UsageError(f"from_tasks: {where}: {type(value).__name__} is no array of numbers ({error}).") from error


def _finite(x: Tensor, where: str) -> Tensor:
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        rows = int((~torch.isfinite(x.flatten(1))).any(1).sum())
        raise UsageError(f"from_tasks: {where}: {rows} samples hold NaN or infinite values. Expected finite numbers.")
    return x


def _samples(x: Tensor) -> Tensor:
    """Return floating-point samples as float32, whole numbers (token ids, bytes) as they are, bytes scaled to 0..1."""
    if x.dtype == torch.uint8:
        return x.float() / 255
    return x.float() if x.is_floating_point() else x.long()


def _targets(y: Tensor) -> Tensor:
    """Return targets [N] (or [N, L]); a column of them, [N, 1], is one a sample."""
    y = y.squeeze(1) if y.shape[1:] == (1,) else y
    return y.float() if y.is_floating_point() else y.long()


def _shape(source: Source) -> tuple[int, ...]:
    return tuple(next(iter(source.batches(1, torch.arange(1)))).x.shape[1:])


def _check_labels(
    sources: Sequence[tuple[Source, Source]], labels: Sequence[Sequence[int]], classes: int | None, objective: Objective
) -> None:
    """Refuse one-hot labels, labels so large that nearly all logits would be nobody's, and classes that only test data have."""
    if not isinstance(objective, Classification):
        return
    known = {c for own in labels for c in own}
    if classes is None and known and max(known) > 1000 + 100 * len(known):
        raise UsageError(
            f"from_tasks: {len(known)} different labels, the largest {max(known)}, which would take as many logits. Expected "
            "labels 0, 1, 2, ..., by numpy.unique(y, return_inverse=True)[1]; or classes=, if that is meant."
        )
    if sources[0][0].labels.ndim > 1:  # words of a text: a rare one may be in the test data alone
        return
    learned = {int(c) for train, _ in sources for c in train.labels.unique()}
    for number, (_, test) in enumerate(sources):
        unseen = {int(c) for c in test.labels[objective.counted(test.labels)].unique()} - learned
        if unseen:
            raise UsageError(
                f"from_tasks: the test data of task {number} have the class {min(unseen)}, which nothing teaches."
            )


def _labels(pair: tuple[Source, Source], task: int, objective: Objective) -> list[int]:
    """Return the task's classes; none where targets are no labels of samples."""
    y = pair[0].labels
    if not isinstance(objective, Classification):
        return []
    if y.ndim == 2 and y.shape[1] > 1 and bool(((y == 0) | (y == 1)).all()) and bool((y.sum(1) == 1).all()):
        raise UsageError(
            f"from_tasks: labels of shape {list(y.shape)} look one-hot. Expected the class of each: y.argmax(1)."
        )
    if y.is_floating_point():
        raise UsageError(
            f"from_tasks: targets of task {task} are {y.dtype}; expected whole numbers, or objective='regression'."
        )
    both = torch.cat([y.flatten(), pair[1].labels.flatten()])
    counted = both[objective.counted(both)]
    if len(counted) and int(counted.min()) < 0:
        raise UsageError(f"from_tasks: a label of task {task} is {int(counted.min())}; expected 0 or more.")
    return sorted(counted.unique().tolist())
