"""Tables of one's own: a row a sample, tasks by class or by any column in its order."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frostline.core.checks import UsageError, in_range, nearest, one_of
from frostline.core.rng import generator
from frostline.core.types import TaskStream
from frostline.streams.build import SCENARIOS, class_groups
from frostline.streams.own import from_tasks

ROW = "row"  # a task column that need not be there: the order of the rows
CATEGORIES = 64  # different values up to which a column of words becomes one column a value


def table(
    path: str,
    label: str = "label",
    features: list[str] | None = None,
    task_column: str | None = None,
    tasks: int | None = None,
    scenario: str | None = None,
    class_order: Any = "natural",
    test_path: str | None = None,
    test_share: float = 0.2,
    objective: str = "classification",
    standardise: bool = True,
    online: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> TaskStream:
    """Return a stream over the rows of a .csv, .parquet, .npz or .safetensors file; for a pandas data frame see from_frame.

    .npz and .safetensors hold x [N, ...] and y [N], and perhaps task [N]. Columns of words become one column a value.
    """
    frames = [_read(path, label, task_column)]
    if test_path is not None:
        frames.append(_read(test_path, label, task_column))
    return from_frame(
        frames[0], label, features, task_column, tasks, scenario, class_order, frames[1] if test_path else None, test_share,
        objective, standardise, online, seed, device, name=Path(path).stem,
    )  # fmt: skip


def from_frame(
    frame: Any,
    label: str = "label",
    features: Sequence[str] | None = None,
    task_column: str | None = None,
    tasks: int | None = None,
    scenario: str | None = None,
    class_order: Any = "natural",
    test: Any = None,
    test_share: float = 0.2,
    objective: str = "classification",
    standardise: bool = True,
    online: bool = False,
    seed: int = 0,
    device: str = "cpu",
    name: str = "table",
) -> TaskStream:
    """Return a stream over a pandas data frame.

    label: the column to predict. features: the columns to predict it from, all others where None. task_column: rows with one
    value are a task, values in their order (numbers and dates by size, numbers in names too); with `tasks`, that many tasks
    of as many consecutive rows each, so that a column of times is drift; `row` is the order of the rows themselves. Without
    it, classes are divided among the tasks. scenario: 'domain' where there is a task column, else 'class', if None. test: other
    rows to test on; else `test_share` of each task's rows, chosen at random but always the same ones. standardise: by mean and
    deviation of the training rows.
    """
    one_of("stream.objective", objective, ("classification", "regression"))
    in_range("stream.test_share", test_share, 0.01, 0.9)
    scenario = scenario or ("domain" if task_column else "class")
    one_of("stream.scenario", scenario, SCENARIOS)
    if objective == "regression" and task_column is None:
        raise UsageError(
            "stream.objective=regression: there are no classes to make tasks of. Expected stream.task_column."
        )
    x, columns = _features(frame, label, features, task_column)
    y, names = targets_of(frame[label], objective, label)
    place = rows_of_tasks(frame, y, names, task_column, tasks, class_order, seed)
    parts = [split(x[rows], y[rows], test_share, t) for t, rows in enumerate(place.values())]
    if test is not None:
        lacking = [c for c in frame.columns if c in (features or frame.columns) and c not in (label, *test.columns)]
        if lacking and lacking != [task_column]:
            raise UsageError(f"The test data have no column {lacking[0]!r}: expected those of the training data.")
        x_test, _ = _features(test, label, columns, task_column, known=columns)
        y_test, _ = targets_of(test[label], objective, label, names)
        there = rows_of_tasks(test, y_test, names, task_column, tasks, class_order, seed)
        if list(there) != list(place):
            raise UsageError(
                f"The test data have the tasks {list(there)}, the training data {list(place)}: expected the same."
            )
        parts = [
            ((x[rows], y[rows]), (x_test[other], y_test[other]))
            for rows, other in zip(place.values(), there.values(), strict=True)
        ]
    if standardise:
        whole = torch.cat([train[0] for train, _ in parts])
        mean, deviation = whole.mean(0), whole.std(0)
        deviation = torch.where(deviation > 1e-8, deviation, 1.0)  # a constant column stays one
        parts = [
            (((x_train - mean) / deviation, y_train), ((x_held - mean) / deviation, y_held))
            for (x_train, y_train), (x_held, y_held) in parts
        ]
    stream = from_tasks(parts, scenario=scenario, names=list(place), name=name, objective=objective, device=device)
    return replace(stream, online=online)


def _read(path: str, label: str, task_column: str | None) -> Any:
    import pandas

    file = Path(path).expanduser()
    if not file.is_file():
        raise UsageError(f"stream.path={path!r}: there is no such file. Expected .csv, .parquet, .npz or .safetensors.")
    try:
        if file.suffix in (".csv", ".tsv"):
            return pandas.read_csv(file, sep=None if file.suffix == ".csv" else "\t", engine="python")
        if file.suffix == ".parquet":
            return pandas.read_parquet(file)
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return _frame_of(dict(arrays), label, task_column, path)
        if file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return _frame_of(load_file(file), label, task_column, path)
    except UsageError:
        raise
    except Exception as error:  # readers fail in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"stream.path={path!r} could not be read: {reason}.") from error
    raise UsageError(f"stream.path={path!r}: expected .csv, .tsv, .parquet, .npz or .safetensors, not {file.suffix!r}.")


def _frame_of(arrays: dict[str, np.ndarray], label: str, task_column: str | None, path: str) -> Any:
    import pandas

    if "x" not in arrays or "y" not in arrays or len(arrays["x"]) != len(arrays["y"]):
        shapes = {name: list(a.shape) for name, a in arrays.items()}
        raise UsageError(f"stream.path={path!r} holds {shapes}: expected x [N, ...] and y [N].")
    flat = arrays["x"].reshape(len(arrays["x"]), -1)
    frame = pandas.DataFrame(flat, columns=[f"x{i}" for i in range(flat.shape[1])])
    frame[label] = arrays["y"]
    for name in ("task", task_column):
        if name is not None and name in arrays:
            frame[name] = arrays[name]
    return frame


def _features(
    frame: Any, label: str, features: Sequence[str] | None, task_column: str | None, known: Sequence[str] | None = None
) -> tuple[Tensor, list[str]]:
    """Return the features [N, D] and their names."""
    import pandas

    for column in (label, None if task_column == ROW else task_column, *(() if known else features or ())):
        if column is not None and column not in frame.columns:
            there = list(map(str, frame.columns))
            raise UsageError(f"There is no column {column!r}.{nearest(column, there)} Columns: {', '.join(there)}.")
    outside = [c for c in (label, task_column) if c is not None]
    wanted = [c for c in frame.columns if c not in outside] if features is None or known else list(features)
    own = frame[wanted]
    words = [c for c in own.columns if not pandas.api.types.is_numeric_dtype(own[c])]
    for column in words:
        if own[column].nunique() > CATEGORIES:
            raise UsageError(
                f"Column {column!r} holds {own[column].nunique()} different words: expected numbers, or at most {CATEGORIES} "
                "categories. Name the columns to use with stream.features=[...]."
            )
    coded = pandas.get_dummies(own, columns=words) if words else own
    if known is not None:
        coded = coded.reindex(columns=list(known), fill_value=0)
    missing = coded.isna().sum()
    if missing.any():
        column = missing.idxmax()
        raise UsageError(
            f"Column {column!r} has no value in {missing[column]} rows. Expected numbers everywhere: fill or drop them."
        )
    return torch.from_numpy(coded.to_numpy(dtype=np.float64, copy=True)), list(coded.columns)


def targets_of(column: Any, objective: str, label: str, names: list[Any] | None = None) -> tuple[Tensor, list[Any]]:
    """Return the targets [N]; classes as their places in the natural order of their names, which comes with them."""
    if column.isna().any():
        raise UsageError(
            f"Column {label!r} has no value in {int(column.isna().sum())} rows: expected a target in each."
        )
    if objective == "regression":
        return torch.from_numpy(column.to_numpy(dtype=np.float32, copy=True)), []
    names = sorted(column.unique().tolist(), key=_natural) if names is None else names
    place = {name: i for i, name in enumerate(names)}
    unknown = [v for v in column.unique().tolist() if v not in place]
    if unknown:
        raise UsageError(f"The test data have the class {unknown[0]!r}, which no training sample has.")
    return torch.tensor([place[v] for v in column.tolist()]), names


def _natural(value: Any) -> Any:
    """Sort numbers by size, and words with the numbers in them by size: 2 before 10."""
    if isinstance(value, str):
        return (1, [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", value) if p])
    return (0, value)


def rows_of_tasks(
    frame: Any, y: Tensor, names: list[Any], column: str | None, tasks: int | None, class_order: Any, seed: int
) -> dict[str, Tensor]:
    """Return the rows of each task by its name."""
    if column is None:
        count = tasks or next(n for n in (5, 2, 3, 1) if len(names) % n == 0)
        found = {}
        for t, group in enumerate(class_groups(len(names), count, None, class_order, seed)):
            shown = ",".join(str(names[c]) for c in group[:3]) + (",..." if len(group) > 3 else "")
            found[f"{t}: {shown}"] = torch.isin(y, torch.tensor(group)).nonzero().squeeze(1)
        return found
    values = _row_numbers(frame) if column == ROW and ROW not in frame.columns else frame[column]
    if values.isna().any():
        raise UsageError(
            f"Column {column!r} has no value in {int(values.isna().sum())} rows: expected a task for each."
        )
    if tasks is not None:
        in_range("stream.tasks", tasks, 1, len(frame))
        given = values.tolist()
        order = sorted(range(len(given)), key=lambda i: _natural(given[i]))
        return {str(t): torch.tensor(part) for t, part in enumerate(np.array_split(np.array(order), tasks))}
    different = sorted(values.unique().tolist(), key=_natural)
    if len(different) < 2:
        raise UsageError(f"Column {column!r} has one value, {different[0]!r}: expected a task for each of several.")
    if len(different) > 1000:
        raise UsageError(
            f"Column {column!r} has {len(different)} values, each a task. Expected stream.tasks=10, say, to cut it into ten."
        )
    whole = values.to_numpy()
    return {str(value): torch.from_numpy(np.flatnonzero(whole == value)) for value in different}


def _row_numbers(frame: Any) -> Any:
    import pandas

    return pandas.Series(range(len(frame)))


def split(x: Tensor, y: Tensor, share: float, task: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    order = torch.randperm(len(y), generator=generator("table", task))
    held = max(1, int(share * len(y)))
    if len(y) < 2:
        raise UsageError(f"Task {task} has {len(y)} rows: expected at least 2, to learn from and to test on.")
    return (x[order[held:]], y[order[held:]]), (x[order[:held]], y[order[:held]])
