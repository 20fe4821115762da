"""The results below folders: those that are complete, and what is left out, with the reason."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from frostline.core.checks import UsageError
from frostline.records import results


def find_runs(
    folders: Sequence[Path], console: Console, left_out: list[tuple[str, str]] | None = None
) -> list[dict[str, Any]]:
    """Return every complete result below `folders`, each file once; name those that are not complete, and note them."""
    found: dict[Path, dict[str, Any]] = {}
    noted = [] if left_out is None else left_out
    for folder in folders:
        if not folder.exists():
            raise UsageError(f"{folder}: there is no such folder. Expected the folder of a run or a sweep.")
        for path in sorted(folder.rglob(results.NAME)):
            try:
                content = results.read(path.parent)
            except (ValueError, OSError) as error:
                console.print(f"[yellow]left out: {escape(str(path))}: {escape(str(error))}[/]", soft_wrap=True)
                noted.append((str(path), str(error)))
                continue
            if (lacks := _lacks(content)) is not None:
                console.print(f"[yellow]left out: {escape(str(path))} lacks {escape(lacks)}[/]", soft_wrap=True)
                noted.append((str(path), f"lacks {lacks}"))
            elif content["status"] == "complete":
                found[path.resolve()] = content | {"folder": str(path.parent)}
            else:
                console.print(f"[yellow]left out: {escape(str(path.parent))} is {content['status']}[/]", soft_wrap=True)
                noted.append((str(path.parent), f"is {content['status']}"))
    if not found:
        where = ", ".join(map(str, folders))
        raise UsageError(
            f"No complete run below {where}: expected a {results.NAME} that says so; resume=FOLDER goes on with a run."
        )
    return list(found.values())


def _lacks(content: dict[str, Any]) -> str | None:
    """Return what a result of somebody else's making has not, of all that a comparison reads; None where all is there."""
    config, stream = content["config"], content["stream"]
    if not isinstance(config.get("strategy"), dict):
        return "config.strategy"
    for section in ("selector", "model", "optimizer", "stream"):
        if not isinstance(config.get(section), dict) or not isinstance(config[section].get("_target_"), str):
            return f"config.{section}._target_"
    if not isinstance(stream.get("name"), str) or not isinstance(stream.get("tasks"), list):
        return "stream.name or stream.tasks"
    count = len(stream["tasks"])
    if [isinstance(row, list) and len(row) for row in content["accuracy"]] != [count] * (count + 1):
        return f"an accuracy matrix of {count + 1} rows of {count}"
    if not all(
        isinstance(row, dict) and {"task", "phase", "flops", "seconds"} <= row.keys() for row in content["ledger"]
    ):
        return "task, phase, flops or seconds in a row of the ledger"
    if "average_accuracy" not in content["metrics"] or "flops_ratio" not in content["full_finetuning"]:
        return "metrics.average_accuracy or full_finetuning.flops_ratio"
    return None
