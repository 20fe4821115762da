"""Tables of one's own: a row a sample, tasks by class or by any column in its order."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.objectives import Regression
from frostline.core.types import TaskStream
from frostline.streams.assembling import SCENARIOS
from frostline.streams.columns import ROW, features_of, parted, rows_of_tasks, targets_of
from frostline.streams.frames import check_columns, read
from frostline.streams.keeping import keep
from frostline.streams.own import from_tasks


def from_table(
    path: Any,
    label: str = "label",
    features: Sequence[str] | None = None,
    task_column: str | None = None,
    tasks: int | None = None,
    scenario: str | None = None,
    class_order: Any = "natural",
    test_path: Any = None,
    test_share: float = 0.2,
    objective: str = "classification",
    tolerance: float | None = None,
    standardise: bool = True,
    prequential: bool = False,
    later_path: Any = None,
    validation: float = 0.0,
    samples_per_class: int | None = None,
    test_samples_per_class: int | None = None,
    online: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> TaskStream:
    """Return a stream over the rows of a file, a data set of Hugging Face's (see frames.read) or a pandas data frame.

    label: the column to predict. features: the columns to predict it from, all others where None; columns of words become
    one column a word. task_column: rows with one value are a task, values in their order (numbers and dates by size, months by
    the calendar); with `tasks`, that many tasks of as many consecutive rows each, so that a column of times is drift; `row`
    is the order of the rows themselves. Without it, classes are divided among the tasks. scenario: 'domain' where there is a
    task column, else 'class', if None. test_path: other rows to test on; else `test_share` of each task's rows, chosen
    at random but always the same ones. standardise: by mean and deviation of the training rows. prequential: each task is
    tested on the very rows that it teaches, before it does and ever after (test then train), and standardised by the first
    task's, since nobody knows what comes; the metric prequential_accuracy is of the tests before.
    later_path: rows that came later, which are a last task, on the scale of the others. tolerance: of a regression, how far
    from its target a prediction still counts as right (which is what `accuracy` shows), in the target's units; half the
    deviation of the targets where None. validation, samples_per_class: see keeping.keep.
    """
    one_of("stream.objective", objective, ("classification", "regression"))
    in_range("stream.test_share", test_share, 0.01, 0.9)
    in_range("stream.tolerance", tolerance, 0, above=True)
    scenario = scenario or ("domain" if task_column else "class")
    one_of("stream.scenario", scenario, SCENARIOS)
    if objective == "regression" and task_column is None:
        raise UsageError(
            "stream.objective=regression: there are no classes to make tasks of. Expected stream.task_column."
        )
    if prequential and (task_column is None or test_path is not None):
        raise UsageError(
            "stream.prequential=true tests rows in the order in which they come, before they are learned. Expected "
            "stream.task_column (row, for the order of the file), and no stream.test_path."
        )
    frame, test = _frames(path, label, task_column)
    if test_path is not None:
        test, _ = _frames(test_path, label, task_column)
    x, columns = features_of(frame, label, features, task_column)
    y, names = targets_of(frame[label], objective, label)
    place = rows_of_tasks(frame, y, names, task_column, tasks, class_order, seed)

    outside = (label, task_column)

    def others(frame_of: Any, task_column: str | None = task_column) -> tuple[torch.Tensor, torch.Tensor]:
        lacking = [c for c in frame.columns if c in (features or frame.columns) and c not in outside]
        check_columns(frame_of, [label, *lacking])
        y_other, _ = targets_of(frame_of[label], objective, label, names)
        return features_of(frame_of, label, features, task_column, known=columns)[0], y_other

    there = held = None
    if test is not None:
        held = others(test)
        there = rows_of_tasks(test, held[1], names, task_column, tasks, class_order, seed)
    parts = parted(place, there, (x, y), held, test_share, prequential)
    known = len(parts)
    if later_path is not None:
        later, _ = _frames(later_path, label, None)
        x_later, y_later = others(later, task_column if task_column in later.columns else None)
        place["later" if "later" not in place else "later rows"] = torch.arange(0)
        parts += parted({"": torch.arange(len(y_later))}, None, (x_later, y_later), None, test_share, prequential)
    if standardise:
        parts = _standardised(parts, 1 if prequential else known)
    kind = Regression(tolerance or max(1e-9, 0.5 * float(y.std()))) if objective == "regression" else objective
    name = Path(path).stem if isinstance(path, str | Path) else "table"
    stream = from_tasks(parts, scenario=scenario, names=list(place), name=name, objective=kind, device=device)
    stream = keep(
        stream, validation=validation, samples_per_class=samples_per_class,
        test_samples_per_class=test_samples_per_class, seed=seed,
    )  # fmt: skip
    return replace(stream, online=online)


def _standardised(parts: list[Any], count: int) -> list[Any]:
    """Return the parts by the mean and deviation of what the first `count` tasks teach."""
    whole = torch.cat([train[0] for train, _ in parts[:count]]).numpy()
    mean, deviation = torch.from_numpy(whole.mean(0)), torch.from_numpy(whole.std(0, ddof=1))
    deviation = torch.where(deviation > 1e-8, deviation, 1.0)  # a constant column stays one
    return [tuple(((x - mean) / deviation, y) for x, y in part) for part in parts]


def _frames(path: Any, label: str, task_column: str | None) -> tuple[Any, Any]:
    if isinstance(path, str | Path):
        return read(str(path), ("text", label), (label, None if task_column == ROW else task_column))
    if not hasattr(path, "columns"):
        raise UsageError(f"stream.path={path!r}: expected a file, a data set of Hugging Face's, or a data frame.")
    return path, None
