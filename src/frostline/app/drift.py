"""Say whether new data differ from what a run learned from: in what, how surely, and what that suggests to retrain."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from frostline.app.building import build
from frostline.app.config import DictConfig
from frostline.app.export import build_model, read_description
from frostline.app.targets import check_target, refuse_foreign, targets
from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.drift import Difference, compare, look, moved, retrain_from
from frostline.core.files import atomic_write
from frostline.core.joining import joined
from frostline.core.rng import generator
from frostline.core.structure import block_modules
from frostline.core.types import Source, Task, TaskStream
from frostline.records import results
from frostline.report.drift import drift_figure, print_drift
from frostline.report.figures import save_figure

AGAINST = ("learned", "previous")
PATHS = {  # the setting that a file or a folder alone is for
    "frostline.streams.table.from_table": "later_path",
    "frostline.streams.folder.image_folder": "data_root",
    "frostline.streams.text_table.text_table": "path",
}


def drift(
    run: Path,
    data: Sequence[str] = (),
    learned: int | None = None,
    against: str = "learned",
    samples: int = 1000,
    alpha: float = 0.01,
    at_least: float = 0.15,
    allow: Sequence[str] = (),
) -> dict[str, Any]:
    """Compare each new task's samples with those of the tasks that the run learned; print, and write drift.json and drift.png.

    data: a file or a folder for the run's own kind of stream, or settings stream.KEY=VALUE; without any, the tasks of the run's
    stream after the first `learned` ones. What was learned is looked at by its test data. (A prequential stream's are
    its training data, which the model has fitted: of two learned tasks the later is then the nearer one.)
    against: 'previous' compares each task with the one before it, to say when something changed. samples: looked at of each.
    alpha: of a false alarm, over everything that is looked at. at_least: how large a difference counts, from 0 to 1.
    """
    one_of("--against", against, AGAINST)
    in_range("--samples", samples, 20)
    in_range("--alpha", alpha, 0, 0.5, above=True)
    in_range("--at-least", at_least, 0, 1)
    description, content = read_description(run), results.read(run)
    node = OmegaConf.create(content["config"]["stream"])
    assert isinstance(node, DictConfig)
    refuse_foreign(
        targets([content["config"]["stream"], description["model"], description.get("selector")]) - set(allow),
        str(run / results.NAME), "say so with --allow",
    )  # fmt: skip
    old = build(node, seed=content["seed"], device="cpu")
    new = _tasks(node, data, old, learned, content["seed"])
    count = len(old) if learned is None else learned
    in_range("--learned", count, 1, len(old), whole=True)
    model = build_model(run, description)
    if not new:
        raise UsageError(
            f"--learned {count}: the run's stream has no task after these. Expected fewer, or data to look at."
        )
    known = joined([task.test for task in old.tasks[:count]])
    knows = old.tasks[count - 1]  # among whose classes all are decided
    seen = _look(model, knows, known, samples, "known")
    rows: list[list[Difference]] = []
    for task in new:
        mine = _look(model, knows, task.train, samples, task.index)
        rows.append(compare(seen, mine, knows))
        if against == "previous":
            seen = mine
    blocks = block_modules(model)
    found = [_verdict(task, row, blocks, alpha, at_least, len(new)) for task, row in zip(new, rows, strict=True)]
    out = {
        "schema": "frostline.drift/1", "learned": [task.name for task in old.tasks[:count]], "against": against,
        "samples": samples, "alpha": alpha, "at_least": at_least, "blocks": blocks, "tasks": found,
    }  # fmt: skip
    with atomic_write(run / "drift.json") as f:
        json.dump(out, f, indent=1)
    save_figure(drift_figure(out), run / "drift")
    print_drift(out)
    print(f"Written to {run / 'drift.json'} and {run / 'drift.png'}.")
    return out


def _tasks(node: DictConfig, data: Sequence[str], old: TaskStream, learned: int | None, seed: int) -> Sequence[Task]:
    """Return the tasks to look at."""
    if not data:
        if learned is None:
            raise UsageError(
                "Expected new data, or --learned N: the first N tasks of the run's stream are what is known."
            )
        return old.tasks[learned:]
    node = node.copy()
    own = PATHS.get(node._target_)
    table = own == "later_path"
    if len(paths := [item for item in data if "=" not in item]) > 1:
        raise UsageError(f"{len(paths)} files or folders, {', '.join(paths)}: expected one.")
    for item in data:
        key, sign, value = item.partition("=")
        if not sign:
            if own is None:
                raise UsageError(
                    f"{item}: {old.name} is no stream of files. Expected settings such as stream.KEY=VALUE."
                )
            key, value = own, item
        elif not key.startswith("stream."):
            raise UsageError(f"{item}: expected a file, a folder, or stream.KEY=VALUE.")
        if table and key.removeprefix("stream.") != own:
            raise UsageError(
                f"{item}: another table would be read on a scale of its own, and what moved would not be seen. Expected the "
                "file alone, whose rows are put on the scale of the run's."
            )
        parsed = value if not sign else OmegaConf.from_dotlist([f"value={value}"]).value
        OmegaConf.update(node, key.removeprefix("stream."), parsed, force_add=True)
    check_target("stream", node)
    new = build(node, seed=seed, device="cpu")
    if new.shape != old.shape or new.classes > old.classes:
        raise UsageError(
            f"The new data are of shape {list(new.shape)} in {new.classes} classes: expected {list(old.shape)}, at most "
            f"{old.classes}."
        )
    if old.scenario == "task" and len(new) > len(old):
        raise UsageError(
            f"The new data have {len(new)} tasks: expected at most {len(old)}, whose classes the run knows."
        )
    return new.tasks[-1:] if table else new.tasks


def _look(model: torch.nn.Module, task: Task, source: Source, samples: int, lot: int | str) -> dict[str, np.ndarray]:
    order = torch.randperm(len(source), generator=generator("drift", lot))[:samples]
    return look(model, task, source.batches(128, order))


def _verdict(
    task: Task, row: list[Difference], blocks: list[str], alpha: float, at_least: float, tests: int
) -> dict[str, Any]:
    """Return what differs, and what that suggests to retrain."""
    names = moved(row, alpha, at_least, tests)
    place = retrain_from(names, blocks)
    advice = "nothing" if place is None else f"selector=last_k selector.k={len(blocks) - place}"
    advice = (
        {0: "selector=everything", len(blocks): "selector=head"}.get(place, advice) if place is not None else advice
    )
    return {
        "task": task.name,
        "samples": len(task.train),
        "differences": {d.name: {"statistic": d.statistic, "p": d.p, "moved": d.name in names} for d in row},
        "suggestion": advice,
    }
