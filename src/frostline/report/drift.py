"""What `frostline drift` found, as a table and as a heat map."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from frostline.core.drift import OUTSIDE
from frostline.report.console import wide_console


def drift_figure(content: dict[str, Any]) -> Figure:
    """Return the heat map of differences, a column a task; a dot marks what surely differs."""
    tasks = content["tasks"]
    names = list(tasks[0]["differences"])
    values = np.array([[task["differences"][name]["statistic"] for task in tasks] for name in names])
    figure = Figure(figsize=(min(14.0, 3.2 + 0.3 * len(tasks)), 1.4 + 0.32 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, vmin=0, vmax=1, cmap="YlOrRd", aspect="auto", interpolation="nearest")
    rows, columns = np.nonzero([[task["differences"][name]["moved"] for task in tasks] for name in names])
    axes.scatter(columns, rows, s=12, color="black", label="differs surely")
    every = -(-len(tasks) // 20)
    axes.set_xticks(range(0, len(tasks), every), [task["task"] for task in tasks][::every], rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("new data")
    figure.colorbar(image, label="difference (0 none, 1 total)")
    if len(rows):
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def print_drift(content: dict[str, Any]) -> None:
    """Print a row for each task: what differs, and by how much."""
    known = f"the {len(content['learned'])} tasks learned" if content["against"] == "learned" else "the task before"
    table = Table(title=f"Against {known}: difference from 0 to 1, * where it is sure (alpha={content['alpha']:g})")
    names = list(content["tasks"][0]["differences"])
    outside = [name for name in names if name in OUTSIDE]
    for heading in ("new data", *outside, "blocks that moved", "suggests"):
        table.add_column(heading)
    shown = (
        content["tasks"]
        if len(content["tasks"]) <= 40
        else [t for t in content["tasks"] if t["suggestion"] != "nothing"]
    )
    for task in shown:
        found = task["differences"]
        cells = [f"{found[n]['statistic']:.2f}{'*' if found[n]['moved'] else ''}" for n in outside]
        gone = [name for name in content["blocks"] if found.get(name, {}).get("moved")]
        blocks = "none" if not gone else f"{len(gone)} of {len(content['blocks'])}, from {gone[0]}"
        table.add_row(task["task"], *cells, blocks, task["suggestion"])
    wide_console().print(table)
    quiet = sum(task["suggestion"] == "nothing" for task in content["tasks"])
    print(f"{len(content['tasks']) - quiet} of {len(content['tasks'])} differ.")
