"""The accuracy-cost frontier of the field: one panel a scenario."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

from frostline.core.files import atomic_write


def best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that no other one beats at a lower or equal cost, cheapest first."""
    found: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["tflops"], -row["average_accuracy"])):
        if not found or row["average_accuracy"] > found[-1]["average_accuracy"]:
            found.append(row)
    return found


def frontier(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the figure: every strategy a point, those on the frontier named."""
    shown = [row for row in rows if "average_accuracy" in row]
    scenarios = [s for s in ("class", "task", "domain") if any(row["scenario"] == s for row in shown)]
    figure = Figure(figsize=(5.2 * len(scenarios), 4.8), layout="constrained")
    for place, scenario in enumerate(scenarios):
        axes = figure.add_subplot(1, len(scenarios), place + 1)
        own = [row for row in shown if row["scenario"] == scenario]
        line = best(own)
        axes.plot([r["tflops"] * 1e12 for r in line], [r["average_accuracy"] for r in line], color="C0", lw=1, zorder=1)
        for row in own:
            on = row in line
            axes.errorbar(
                row["tflops"] * 1e12, row["average_accuracy"], yerr=row["average_accuracy_half"], fmt="o", ms=5 if on else 3.5,
                color="C0" if on else "0.6", lw=0.8,
            )  # fmt: skip
        for number, row in enumerate(line):
            axes.annotate(
                row["strategy"], (row["tflops"] * 1e12, row["average_accuracy"]), xytext=(5, -11 if number % 2 else 5),
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
        taken = [(np.log10(row["tflops"]), row["average_accuracy"]) for row in line]
        named = [
            row
            for row in own
            if row["strategy"] in ("finetune", "ewc", "lwf", "gem", "joint", "cumulative") and row not in line
        ]
        for row in named:
            at = (np.log10(row["tflops"]), row["average_accuracy"])
            if any(abs(at[0] - x) < 0.3 and abs(at[1] - y) < 0.04 for x, y in taken):
                continue  # it would stand on another name
            taken.append(at)
            axes.annotate(
                row["strategy"], (row["tflops"] * 1e12, row["average_accuracy"]), xytext=(5, -3), textcoords="offset points",
                fontsize=7, color="0.4",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(LogLocator(subs=(0.2, 0.5)))
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.xaxis.set_minor_formatter(EngFormatter())
        axes.tick_params(axis="x", which="both", labelsize=8)
        axes.set_ylim(top=min(1.02, axes.get_ylim()[1]))
        axes.set_xlabel("FLOPs spent on learning")
        axes.set_title(f"{scenario}-incremental", fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("average accuracy after the last task")
    with atomic_write(path, "wb") as f:
        figure.savefig(f, format="png", dpi=150)
