"""The page's figures as files for a paper: the frontier, retraining cost curves, the bill, forgetting of each task."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from frostline.core import metrics
from frostline.report.columns import less_is_better
from frostline.report.figures import MARKS
from frostline.report.groups import REFERENCE, Group, by_accuracy, by_stream, selector_setting

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D31", "#777777")  # Okabe and Ito's
HATCHES = ("", "///", "...", "xx", "--", "||", "++", "\\\\\\")
PHASES = ("train", "consolidate", "select", "cache", "evaluate")
MOST_BARS, MOST_LINES, MOST_NAMES = 30, 8, 12


def paper_figures(groups: Sequence[Group]) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of each, for each stream; streams are numbered where there are several."""
    streams = by_stream(groups)
    for number, (stream, own) in enumerate(streams.items()):
        after = f"_{number + 1}" if len(streams) > 1 else ""
        for name, figure in (
            ("frontier", frontier),
            ("cost_curves", cost_curves),
            ("bill", bill),
            ("forgotten", forgotten),
        ):
            if made := figure(own):
                made.suptitle(stream, fontsize=9)
                yield f"{name}{after}", made


def front(groups: Sequence[Group], x: str, y: str) -> list[Group]:
    """Return the groups that no other beats in both means, by what they take; joint training is no choice."""

    signs = [1 if less_is_better(column) else -1 for column in (x, y)]
    known = [g for g in groups if g.strategy != REFERENCE and g.values(x) and g.values(y)]
    points = np.array([[g.mean(x), g.mean(y)] for g in known]).reshape(-1, 2) * signs
    best = [
        g
        for g, point in zip(known, points, strict=True)
        if not ((points <= point).all(1) & (points < point).any(1)).any()
    ]
    return sorted(best, key=lambda g: g.mean(x))


def frontier(groups: Sequence[Group]) -> Figure | None:
    """Return average accuracy against the operations of learning, with what nothing beats joined and named."""
    shown = [g for g in groups if g.values("flops") and g.values("accuracy")]
    if not shown:
        return None
    figure, axes = _axes()
    for group in shown:
        (x, dx), (y, dy) = (group.interval(c) or (np.nan, np.nan) for c in ("flops", "accuracy"))
        few = len(group.runs) < 3
        axes.errorbar(
            x, y, xerr=None if few else dx, yerr=None if few else dy, capsize=2, markersize=5, linewidth=0.8,
            **_look(group, groups),
        )  # fmt: skip
    best = front(shown, "flops", "accuracy")
    points = [(g.mean("flops"), g.mean("accuracy")) for g in best]
    axes.plot(*zip(*points, strict=True), ":", color="#5c6670", linewidth=1, zorder=0)
    named: list[np.ndarray] = []
    for group, point in zip(best, points, strict=True):
        at = axes.transAxes.inverted().transform(axes.transData.transform(point))
        if all(abs(at - other).max() > 0.06 for other in named):  # else one name would lie on the other
            named.append(at)
            axes.annotate(group.method, point, fontsize=6.5, xytext=(4, -8), textcoords="offset points")
    for strategy in dict.fromkeys(g.strategy for g in shown):
        first = next(g for g in shown if g.strategy == strategy)
        axes.plot([], [], "s", color=_look(first, groups)["color"], markersize=5, label=strategy)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=6.5)
    axes.set_xlabel("FLOPs of learning")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylabel("average accuracy")
    return figure


def cost_curves(groups: Sequence[Group]) -> Figure | None:
    """Return accuracy and forgetting against the share of full fine-tuning's operations, a line a strategy and selector."""
    shown = [g for g in groups if g.values("of_full")]
    if not shown:
        return None
    figure = Figure(figsize=(7.2, 3.1), layout="constrained")

    def kind(group: Group) -> tuple[str, str]:
        return group.strategy, selector_setting(group.runs[0]["config"])[0]

    for place, column in enumerate(("accuracy", "forgetting")):
        axes = _plain(figure.add_subplot(1, 2, place + 1))
        for (strategy, selector), members in groupby(sorted(shown, key=kind), kind):
            own = sorted((g for g in members if g.values(column)), key=lambda g: g.mean("of_full"))
            x, y = ([g.mean(c) for g in own] for c in ("of_full", column))
            if own:
                look = _look(own[0], groups)
                axes.plot(
                    x,
                    y,
                    look["marker"] + "-",
                    color=look["color"],
                    markersize=4,
                    linewidth=1,
                    label=f"{strategy} {selector}",
                )
        axes.set_xlabel("share of full fine-tuning's FLOPs")
        axes.set_ylabel("average accuracy" if column == "accuracy" else column)
    handles, names = figure.axes[0].get_legend_handles_labels()
    if len(names) <= 2 * MOST_NAMES:
        figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=6.5)
    return figure


def bill(groups: Sequence[Group]) -> Figure | None:
    """Return the operations of each phase, a bar a configuration, those of the highest accuracy."""
    ranked = by_accuracy(groups)[:MOST_BARS][::-1]
    figure, axes = _axes(height=1.0 + 0.2 * len(ranked))
    spent = [_by_phase(group) for group in ranked]
    left = np.zeros(len(ranked))
    for n, phase in enumerate(dict.fromkeys((*PHASES, *(p for own in spent for p in own)))):
        width = np.array([own.get(phase, 0.0) for own in spent])
        if width.any():
            look = {"color": COLOURS[n % 8], "hatch": HATCHES[n % 8], "edgecolor": "white", "linewidth": 0.4}
            axes.barh(range(len(ranked)), width, left=left, label=phase, height=0.75, **look)
        left += width
    axes.set_yticks(range(len(ranked)), [group.method for group in ranked], fontsize=7)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel("FLOPs")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=7)
    return figure if left.any() else None


def forgotten(groups: Sequence[Group]) -> Figure | None:
    """Return the forgetting of each task at the end, of the most accurate configurations."""
    ranked = by_accuracy(groups)
    figure, axes = _axes()
    for n, group in enumerate([g for g in ranked if g.values("forgetting")][:MOST_LINES]):
        R = np.stack([metrics.matrix(run["accuracy"]) for run in group.runs])
        peak = np.array(
            [R[:, j + 1 : -1, j].max(1) if R.shape[1] > j + 2 else R[:, -1, j] for j in range(R.shape[2] - 1)]
        )
        drop = (peak - R[:, -1, :-1].T).mean(1)
        axes.plot(
            range(len(drop)), drop, MARKS[n] + "-", color=COLOURS[n], markersize=3, linewidth=1, label=group.method
        )
    if not axes.lines:
        return None
    axes.set_xlabel("task")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("forgetting at the end")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=6.5)
    return figure


def _by_phase(group: Group) -> dict[str, float]:
    found: dict[str, float] = {}
    for run in group.runs:
        for row in run["ledger"]:
            if row["task"] is not None:
                found[row["phase"]] = found.get(row["phase"], 0.0) + row["flops"] / len(group.runs)
    return found


def _look(group: Group, groups: Sequence[Group]) -> dict[str, Any]:
    strategies = list(dict.fromkeys(g.strategy for g in groups))
    selectors = list(dict.fromkeys(selector_setting(g.runs[0]["config"])[0] for g in groups))
    mine = selectors.index(selector_setting(group.runs[0]["config"])[0])
    return {"color": COLOURS[strategies.index(group.strategy) % 8], "marker": MARKS[mine % len(MARKS)]}


def _axes(height: float = 3.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, height), layout="constrained")
    return figure, _plain(figure.add_subplot())


def _plain(axes: Axes) -> Axes:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return axes
