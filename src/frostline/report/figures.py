"""The figures of one run: its accuracy matrix, and accuracy against what it had cost by then."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, ScalarFormatter

from frostline.core import metrics
from frostline.core.files import atomic_write
from frostline.records import curve
from frostline.records.results import TRAINING_PHASES
from frostline.report.drift_figure import output_drift

MARKS = "osD^PX*v<>phHd8"  # of points that one colour has
ACCENT, FAINT = "#0b5394", "#9aa5b1"


def run_figures(folder: Path, content: dict[str, Any], kinds: Sequence[str] = ("png",)) -> None:
    """Write each figure to folder/figures/ as a file of each kind."""
    target = folder / "figures"
    figures = {"accuracy_matrix": accuracy_matrix(content), "accuracy_against_cost": accuracy_against_cost(content)}
    if rows := curve.read(folder / curve.NAME):
        figures["learning_curve"] = learning_curve(content, rows)
    if content.get("within"):
        figures["accuracy_within"] = accuracy_within(content)
    if content.get("output_drift"):
        figures["output_drift"] = output_drift(content)
    for name, figure in figures.items():
        save_figure(figure, target / name, kinds)


def save_figure(figure: Figure, path: Path, kinds: Sequence[str] = ("png",)) -> None:
    """Write a figure to path.<kind>, a file of each kind."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)  # once: savefig would do it for each file, and draw twice to do it
    figure.set_layout_engine(None)
    for kind in kinds:
        with atomic_write(path.with_name(f"{path.name}.{kind}"), "wb") as f:
            figure.savefig(f, format=kind, dpi=150)


def accuracy_matrix(content: dict[str, Any]) -> Figure:
    """Return the heat map of the accuracy matrix; cells that were not evaluated stay white."""
    R = metrics.matrix(content["accuracy"])
    names = content["stream"]["tasks"]
    side = min(12.0, max(3.6, 0.62 * len(names) + 1.8))
    every = -(-len(names) // 20)  # more labels than that cannot be read
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(R, vmin=0, vmax=1, cmap="YlGnBu", aspect="auto")
    axes.set_xticks(range(0, len(names), every), names[::every], rotation=45 if len(names) > 5 else 0)
    axes.set_yticks([0, *range(1, len(names) + 1, every)], ["untrained", *names[::every]])
    axes.set_xlabel("tested on task")
    axes.set_ylabel("after learning task")
    if len(names) <= 12:
        for i, j in np.argwhere(~np.isnan(R)):
            axes.text(
                j,
                i,
                f"{R[i, j]:.2f}",
                ha="center",
                va="center",
                color="white" if R[i, j] > 0.6 else "black",
                fontsize=9,
            )
    figure.colorbar(image, ax=axes, label="test accuracy")
    axes.set_title(f"{content['stream']['name']}: {' + '.join(content['config']['strategy'])}")
    return figure


def learning_curve(content: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Figure:
    """Return loss, rate and gradient norm by the steps taken; a faint line where a task begins."""
    figure = Figure(figsize=(8.4, 6.0), layout="constrained")
    steps = [row["steps_taken"] for row in rows]
    begins = [before["steps_taken"] for before, row in pairwise(rows) if row["task"] != before["task"]]
    panels = figure.subplots(3, 1, sharex=True)
    for axes, key in zip(panels, ("loss", "rate", "gradient_norm"), strict=True):
        axes.plot(steps, [row[key] for row in rows], ".-", color=ACCENT, linewidth=1, markersize=4)
        axes.vlines(
            begins, 0, 1, transform=axes.get_xaxis_transform(), color=FAINT, linewidth=0.8, linestyle=":", zorder=0
        )
        axes.set_ylabel({"rate": "learning rate"}.get(key, key.replace("_", " ")))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("steps")
    figure.suptitle(f"{content['stream']['name']}: {' + '.join(content['config']['strategy'])}")
    return figure


def accuracy_within(content: dict[str, Any]) -> Figure:
    """Return the accuracy on each task by the steps taken, within tasks too; a faint line where a task begins."""
    names = content["stream"]["tasks"]
    ends = np.cumsum(
        [
            sum(r["steps"] for r in content["ledger"] if r["task"] == t and r["phase"] == "train")
            for t in range(len(names))
        ]
    )
    R = metrics.matrix(content["accuracy"])
    points = [(steps, row) for _, steps, *row in metrics.matrix(content["within"])]
    points = sorted([*points, *zip(ends, R[1:], strict=True)], key=lambda point: point[0])
    figure = Figure(figsize=(8.4, 4.0), layout="constrained")
    axes = figure.subplots()
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(names)))
    for j, (name, shade) in enumerate(zip(names, shades, strict=True)):
        begins = ends[j - 1] if j else 0
        known = [(steps, row[j]) for steps, row in points if steps > begins and not np.isnan(row[j])]
        if known:
            axes.plot(*zip(*known, strict=True), ".-", color=shade, linewidth=1, markersize=3, label=f"task {name}")
    axes.vlines(
        ends[:-1], 0, 1, transform=axes.get_xaxis_transform(), color=FAINT, linewidth=0.8, linestyle=":", zorder=0
    )
    axes.set_xlabel("steps")
    axes.set_ylabel("test accuracy")
    axes.set_ylim(0, 1.05)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(names) <= 12:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    figure.suptitle(f"{content['stream']['name']}: {' + '.join(content['config']['strategy'])}")
    return figure


def cumulative_costs(content: dict[str, Any], column: str) -> list[float]:
    """Return what learning had cost in `column` after each task."""
    spent = [0.0] * len(content["stream"]["tasks"])
    for row in content["ledger"]:
        if row["phase"] in TRAINING_PHASES and row["task"] is not None:
            spent[row["task"]] += row[column] or 0
    return list(np.cumsum(spent))


def accuracy_against_cost(content: dict[str, Any]) -> Figure:
    """Return mean accuracy on the tasks learned so far against FLOPs and seconds spent on learning."""
    R = metrics.matrix(content["accuracy"])
    mean = [np.nan if np.isnan(R[i, :i]).any() else R[i, :i].mean() for i in range(1, len(R))]
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    full = content["full_finetuning"]
    for place, (column, label) in enumerate((("flops", "FLOPs"), ("seconds", "seconds"))):
        axes = figure.add_subplot(1, 2, place + 1)
        spent = cumulative_costs(content, column)
        axes.plot(spent, mean, "o-", color=ACCENT, label="this run", clip_on=False)
        for number, (x, y) in enumerate(zip(spent, mean, strict=True)):
            if not np.isnan(y) and len(mean) <= 12:
                below = number + 1 < len(mean) and mean[number + 1] > y  # out of the curve's way
                beside = {"xytext": (6, -11 if below else 5), "textcoords": "offset points"}
                axes.annotate(f"task {number}", (x, y), fontsize=8, **beside)
        if full.get(column):
            _mark_full(axes, full[column])
        axes.set_xlabel(f"{label} spent on learning")
        axes.xaxis.set_major_formatter(EngFormatter() if column == "flops" else ScalarFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(5))  # engineering units are wide
        axes.set_ylim(0, 1.05)
        axes.set_xlim(left=0)
        axes.margins(x=0.12)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )  # low points stay free
    figure.axes[0].set_ylabel("mean accuracy on tasks so far")
    figure.suptitle(f"{content['stream']['name']}: {' + '.join(content['config']['strategy'])}")
    return figure


def _mark_full(axes: Axes, x: float) -> None:
    axes.axvline(x, color=FAINT, linestyle="--", zorder=0, label="full fine-tuning of the same batches")
