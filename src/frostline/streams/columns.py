"""What the columns of a table mean: features, targets, and which rows are a task."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frostline.core.checks import UsageError, in_range
from frostline.core.rng import generator
from frostline.streams.frames import check_columns
from frostline.streams.groups import class_groups
from frostline.streams.times import in_order, natural

ROW = "row"  # a task column that need not be there: the order of the rows
CATEGORIES = 64  # different words up to which a column becomes one column a word
TASKS = 1000  # values up to which each is a task
Rows = tuple[Tensor, Tensor]  # x, y


def features_of(
    frame: Any, label: str, features: Sequence[str] | None, task_column: str | None, known: Sequence[str] | None = None
) -> tuple[Tensor, list[str]]:
    """Return the features [N, D] in double precision, and the names of the D columns.

    known: those of the training rows, where these are test rows.
    """
    import pandas

    outside = [label] if task_column in (None, ROW) else [label, task_column]
    check_columns(frame, [*outside, *(features or ())])
    if features is not None and label in features:
        raise UsageError(f"stream.features names the label {label!r} itself: expected what it is to be predicted from.")
    own = frame[[c for c in frame.columns if c not in outside] if features is None else list(features)]
    if not own.shape[1]:
        raise UsageError("There is no column to predict from: expected at least one feature beside the label.")
    missing = own.isna().sum()
    if missing.any():
        column = missing.idxmax()
        raise UsageError(
            f"Column {column!r} has no value in {missing[column]} rows. Expected one everywhere: fill or drop them."
        )
    words = [c for c in own.columns if not pandas.api.types.is_numeric_dtype(own[c])]
    for column in words:
        _check_words(own[column])
    coded = pandas.get_dummies(own, columns=words) if words else own
    if known is not None:
        lacking = [c for c in coded.columns if c not in known]
        if lacking:
            raise UsageError(
                f"The test data have {lacking[0]!r}, which no training row has: nothing was learned about it."
            )
        coded = coded.reindex(columns=list(known), fill_value=0)
    values = coded.to_numpy(dtype=np.float64, copy=True)
    if not np.isfinite(values).all():
        column = coded.columns[int(np.argmin(np.isfinite(values).all(0)))]
        raise UsageError(f"Column {column!r} holds an infinite value: expected finite numbers.")
    return torch.from_numpy(values), list(coded.columns)


def _check_words(column: Any) -> None:
    """Refuse words that are numbers but for a few, such as '?', and more words than categories have."""
    import pandas

    text = column.astype(str).str.strip()
    if text.str.fullmatch(r"[-+]?\d+(\.\d{3})*,\d+").mean() > 0.5:
        raise UsageError(f"Column {column.name!r} has decimal commas ({text.iloc[0]!r}): expected decimal points.")
    numbers: Any = pandas.to_numeric(text, errors="coerce")
    if numbers.notna().mean() > 0.5:
        odd = text[numbers.isna()]
        raise UsageError(
            f"Column {column.name!r} holds numbers, but {odd.iloc[0]!r} in {len(odd)} rows: expected a number in each."
        )
    if column.nunique() > CATEGORIES:
        raise UsageError(
            f"Column {column.name!r} holds {column.nunique()} different words: expected numbers, or at most {CATEGORIES} "
            "categories. Name the columns to use with stream.features=[...]."
        )


def targets_of(column: Any, objective: str, label: str, names: list[Any] | None = None) -> tuple[Tensor, list[Any]]:
    """Return the targets [N]; classes as their places in the natural order of their names, which comes with them."""
    if column.isna().any():
        raise UsageError(
            f"Column {label!r} has no value in {int(column.isna().sum())} rows: expected a target in each."
        )
    if objective == "regression":
        try:
            return torch.from_numpy(column.to_numpy(dtype=np.float32, copy=True)), []
        except (TypeError, ValueError) as error:
            raise UsageError(f"Column {label!r} holds no numbers ({error}): expected some for a regression.") from error
    if column.dtype.kind == "f" and bool((column % 1 != 0).any()):
        raise UsageError(
            f"Column {label!r} holds numbers with a fraction, such as {column[column % 1 != 0].iloc[0]}. Expected classes, or "
            "stream.objective=regression."
        )
    names = sorted(column.unique().tolist(), key=natural) if names is None else names
    place = {name: i for i, name in enumerate(names)}
    unknown = [v for v in column.unique().tolist() if v not in place]
    if unknown:
        raise UsageError(f"The test data have the class {unknown[0]!r}, which no training sample has.")
    return torch.tensor([place[v] for v in column.tolist()]), names


def rows_of_tasks(
    frame: Any, y: Tensor, names: list[Any], column: str | None, tasks: int | None, class_order: Any, seed: int
) -> dict[str, Tensor]:
    """Return the rows of each task by its name."""
    import pandas

    if column is None:
        count = tasks or next(n for n in (5, 2, 3, 1) if len(names) % n == 0)
        if not isinstance(class_order, str) and any(isinstance(part, Sequence) for part in class_order):
            count = len(class_order)  # the tasks themselves
        found = {}
        for t, group in enumerate(class_groups(len(names), count, None, class_order, seed)):
            shown = ",".join(str(names[c]) for c in group[:3]) + (",..." if len(group) > 3 else "")
            found[f"{t}: {shown}"] = torch.isin(y, torch.tensor(group)).nonzero().squeeze(1)
        return found
    if column == ROW and ROW not in frame.columns:
        values = pandas.Series(range(len(frame)))
    else:
        check_columns(frame, [column])
        values = frame[column]
    if values.isna().any():
        raise UsageError(
            f"Column {column!r} has no value in {int(values.isna().sum())} rows: expected a task for each."
        )
    keys = in_order(values)
    if values.nunique() < 2:
        raise UsageError(
            f"Column {column!r} has one value, {values.iloc[0]!r}: expected a task for each of several, or times in whose "
            "order rows come."
        )
    if tasks is not None:
        in_range("stream.tasks", tasks, 1, len(frame))
        order = sorted(range(len(keys)), key=keys.__getitem__)
        return {str(t): torch.tensor(part) for t, part in enumerate(np.array_split(np.array(order), tasks))}
    place = dict(zip(values.tolist(), keys, strict=True))
    if len(place) > TASKS:
        raise UsageError(
            f"Column {column!r} has {len(place)} values, each a task. Expected stream.tasks=10, say, to cut it into ten."
        )
    whole = values.to_numpy()
    if not all(isinstance(value, int | float) for value in place):
        shown = [str(value) for value in sorted(place, key=place.__getitem__)]
        more = f", ... ({len(shown)} in all)" if len(shown) > 12 else ""
        print(f"frostline: the tasks, by {column} in this order: {', '.join(shown[:12])}{more}.")
    return {
        str(value): torch.from_numpy(np.flatnonzero(whole == value)) for value in sorted(place, key=place.__getitem__)
    }


def split(x: Tensor, y: Tensor, share: float, task: int) -> tuple[Rows, Rows]:
    """Return a task's rows to learn from and to test on, chosen at random but always the same ones."""
    order = torch.randperm(len(y), generator=generator("table", task))
    held = max(1, int(share * len(y)))
    if len(y) < 2:
        raise UsageError(f"Task {task} has {len(y)} rows: expected at least 2, to learn from and to test on.")
    return (x[order[held:]], y[order[held:]]), (x[order[:held]], y[order[:held]])


def parted(
    place: dict[str, Tensor],
    there: dict[str, Tensor] | None,
    train: Rows,
    test: Rows | None,
    share: float,
    prequential: bool = False,
) -> list[tuple[Rows, Rows]]:
    """Return each task's rows to learn from and to test on; `there`: the test rows of each task, where there are some apart.

    prequential: they are the same rows.
    """
    x, y = train
    if prequential:
        same = [(x[rows], y[rows]) for rows in place.values()]
        return list(zip(same, same, strict=True))
    if test is None or there is None:
        return [split(x[rows], y[rows], share, t) for t, rows in enumerate(place.values())]
    if set(there) != set(place):
        raise UsageError(
            f"The test data have the tasks {list(there)}, the training data {list(place)}: expected the same."
        )
    return [((x[rows], y[rows]), (test[0][there[t]], test[1][there[t]])) for t, rows in place.items()]
