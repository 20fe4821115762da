"""Texts of one's own with labels, as token ids; tasks by class, by a column, or by a file that names each task's labels."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline.core.checks import UsageError, in_range, nearest, one_of
from frostline.core.types import TaskStream
from frostline.streams.assembling import SCENARIOS
from frostline.streams.columns import parted, rows_of_tasks, targets_of
from frostline.streams.frames import read
from frostline.streams.keeping import keep
from frostline.streams.own import from_tasks
from frostline.streams.text import tokenizer_for


def text_table(
    path: str,
    text: str = "text",
    label: str = "label",
    task_column: str | None = None,
    groups: str | None = None,
    tasks: int | None = None,
    scenario: str | None = None,
    class_order: Any = "natural",
    tokenizer: str | None = None,
    length: int = 32,
    test_share: float = 0.2,
    validation: float = 0.0,
    samples_per_class: int | None = None,
    test_samples_per_class: int | None = None,
    online: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> TaskStream:
    """Return a stream of texts with labels, from a file or a data set of Hugging Face's, as token ids [length].

    See frames.read; a JSON file is a list of records or of [text, label], or has such lists under `train` and `test`. groups: a
    JSON file that names each task's labels, {task: [label, ...]}. tokenizer: a tokenizer.json, by default MiniLM's. validation,
    samples_per_class: see keeping.keep.
    """
    in_range("stream.length", length, 4)
    in_range("stream.test_share", test_share, 0.01, 0.9)
    train, test = read(path, (text, label), (text, label, task_column))
    mapping = _read_groups(groups) if groups is not None else {}
    scenario = scenario or ("domain" if task_column and not mapping else "class")
    one_of("stream.scenario", scenario, SCENARIOS)
    encode, padding = tokenizer_for(tokenizer, length)
    y, names = targets_of(train[label], "classification", label)

    def rows(frame: Any, y: Any) -> dict[str, Any]:
        if mapping:
            return _rows_of_groups(frame[label], mapping, str(groups))
        return rows_of_tasks(frame, y, names, task_column, tasks, class_order, seed)

    place, there, held = rows(train, y), None, None
    if test is not None:
        held = encode(_texts(test[text])), targets_of(test[label], "classification", label, names)[0]
        there = rows(test, held[1])
    parts = parted(place, there, (encode(_texts(train[text])), y), held, test_share)
    stream = from_tasks(parts, scenario=scenario, names=list(place), name=Path(path).stem, device=device)
    stream = keep(
        stream, validation=validation, samples_per_class=samples_per_class,
        test_samples_per_class=test_samples_per_class, seed=seed,
    )  # fmt: skip
    return replace(stream, online=online, padding=padding)


def _texts(column: Any) -> list[str]:
    """Return the texts; refuse rows without one."""
    empty = column.isna() | ~column.map(lambda value: isinstance(value, str) and bool(value.strip()))
    if empty.any():
        row = column.index[empty][0]
        raise UsageError(
            f"Column {column.name!r} has no text in {int(empty.sum())} rows, first in row {row} ({column[row]!r}). "
            "Expected words everywhere: fill or drop them."
        )
    return column.tolist()


def _read_groups(groups: str) -> dict[str, list[Any]]:
    """Return each task's labels; refuse a label that two tasks name."""
    path = Path(groups).expanduser()
    if not path.is_file():
        raise UsageError(f"stream.groups={groups!r}: there is no such file. Expected JSON, {{task: [label, ...]}}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UsageError(f"stream.groups={groups!r} is no JSON ({error}). Expected {{task: [label, ...]}}.") from error
    if not isinstance(content, dict) or not all(isinstance(v, list) for v in content.values()):
        raise UsageError(f"stream.groups={groups!r}: expected JSON, {{task: [label, ...]}}.")
    owner: dict[Any, str] = {}
    for task, labels in content.items():
        for label in labels:
            if label in owner:
                raise UsageError(
                    f"stream.groups={groups!r}: the label {label!r} is in {owner[label]!r} and in {task!r}."
                )
            owner[label] = task
    return content


def _rows_of_groups(labels: Any, mapping: dict[str, list[Any]], groups: str) -> dict[str, torch.Tensor]:
    """Return the rows of each task that has some, in the order of the file."""
    owner = {label: task for task, own in mapping.items() for label in own}
    unknown = [label for label in labels.unique().tolist() if label not in owner]
    if unknown:
        raise UsageError(
            f"stream.groups={groups!r} names no task for the label {unknown[0]!r}.{nearest(unknown[0], map(str, owner))}"
        )
    found = {task: torch.from_numpy(np.flatnonzero(labels.isin(own))) for task, own in mapping.items()}
    return {task: rows for task, rows in found.items() if len(rows)}
