"""Texts of one's own with labels, as token ids; tasks by class, by a column, or by a file that names each task's labels."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from frostline.core.checks import UsageError, in_range, nearest, one_of
from frostline.core.types import TaskStream
from frostline.streams.build import SCENARIOS
from frostline.streams.own import from_tasks
from frostline.streams.table import rows_of_tasks, split, targets_of
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
    online: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> TaskStream:
    """Return a stream of texts with labels, from .csv, .json or .jsonl, as token ids [length].

    A JSON file is a list of records or of [text, label], or has such lists under `train` and `test`. groups: a JSON file that
    names each task's labels, {task: [label, ...]}. tokenizer: a tokenizer.json, by default MiniLM's.
    """
    in_range("stream.length", length, 4)
    in_range("stream.test_share", test_share, 0.01, 0.9)
    train, test = _read_texts(Path(path).expanduser(), text, label, task_column)
    mapping = _read_groups(groups) if groups is not None else {}
    if groups is not None:
        for part in (train, test):
            if part is not None:
                part["_task"] = _group_of(part[label], mapping, groups)
        task_column = "_task"
        scenario = scenario or "class"
    scenario = scenario or ("domain" if task_column else "class")
    one_of("stream.scenario", scenario, SCENARIOS)
    encode = tokenizer_for(tokenizer, length)
    y, names = targets_of(train[label], "classification", label)
    place = rows_of_tasks(train, y, names, task_column, tasks, class_order, seed)
    if groups is not None:
        place = {name: place[name] for name in mapping if name in place}
    x = encode(train[text].tolist())
    if test is None:
        parts = [split(x[rows], y[rows], test_share, t) for t, rows in enumerate(place.values())]
    else:
        x_test, (y_test, _) = encode(test[text].tolist()), targets_of(test[label], "classification", label, names)
        there = rows_of_tasks(test, y_test, names, task_column, tasks, class_order, seed)
        parts = [((x[rows], y[rows]), (x_test[there[t]], y_test[there[t]])) for t, rows in place.items()]
    stream = from_tasks(parts, scenario=scenario, names=list(place), name=Path(path).stem, device=device)
    return replace(stream, online=online)


def _read_texts(path: Path, text: str, label: str, task_column: str | None) -> tuple[Any, Any]:
    """Return training data and, where the file has them apart, test data, as data frames."""
    import pandas

    if not path.is_file():
        raise UsageError(f"stream.path={str(path)!r}: there is no such file. Expected .csv, .json or .jsonl.")

    def frame(rows: Any) -> Any:
        if rows and isinstance(rows[0], list):
            return pandas.DataFrame(rows, columns=[text, label])
        return pandas.DataFrame(rows)

    try:
        if path.suffix in (".csv", ".tsv"):
            found = (pandas.read_csv(path, sep="\t" if path.suffix == ".tsv" else ","), None)
        elif path.suffix in (".jsonl", ".ndjson"):
            found = (pandas.read_json(path, lines=True), None)
        elif path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            parts = (content, None) if isinstance(content, list) else (content["train"], content.get("test"))
            found = (frame(parts[0]), None if parts[1] is None else frame(parts[1]))
        else:
            raise UsageError(f"stream.path={str(path)!r}: expected .csv, .tsv, .json or .jsonl, not {path.suffix!r}.")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"stream.path={str(path)!r} could not be read: {type(error).__name__}: {error}.") from error
    for part in (part for part in found if part is not None):
        for column in (text, label, task_column):
            if column is not None and column not in part.columns:
                known = list(map(str, part.columns))
                raise UsageError(f"There is no column {column!r}.{nearest(column, known)} Columns: {', '.join(known)}.")
    return found


def _read_groups(groups: str) -> dict[str, list[Any]]:
    path = Path(groups).expanduser()
    if not path.is_file():
        raise UsageError(f"stream.groups={groups!r}: there is no such file. Expected JSON, {{task: [label, ...]}}.")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not all(isinstance(v, list) for v in content.values()):
        raise UsageError(f"stream.groups={groups!r}: expected JSON, {{task: [label, ...]}}.")
    return content


def _group_of(labels: Any, mapping: dict[str, list[Any]], groups: str) -> list[str]:
    owner = {label: task for task, own in mapping.items() for label in own}
    unknown = [label for label in labels.unique().tolist() if label not in owner]
    if unknown:
        raise UsageError(
            f"stream.groups={groups!r} names no task for the label {unknown[0]!r}.{nearest(unknown[0], owner)}"
        )
    return [owner[label] for label in labels.tolist()]
