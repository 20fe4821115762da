"""The figure of how far what a run's net says has moved: by how much, to which words, from which block, and what that cost."""

from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

FAINT = "#9aa5b1"
Rows = Sequence[dict[str, Any]]


def output_drift(content: dict[str, Any]) -> Figure:
    """Return four panels: divergence by steps and against held-out accuracy, mass of groups of words, blocks at the end."""
    rows: Rows = content["output_drift"]
    suites = list(dict.fromkeys(row["suite"] for row in rows))
    has_blocks = bool(rows[-1]["attention"] or rows[-1]["mlp"])
    figure = Figure(figsize=(10.5, 7.2) if has_blocks else (13.5, 3.8), layout="constrained")
    panels = list(figure.subplots(*((2, 2) if has_blocks else (1, 3))).flat)
    shades = dict(zip(suites, colormaps["viridis"]([i / max(1, len(suites)) for i in range(len(suites))]), strict=True))
    _divergence(panels[0], rows, shades)
    _against_forgetting(panels[1], rows, shades, content)
    _masses(panels[2], rows, "classes" if content["stream"].get("targets", 1) == 1 else "words")
    if has_blocks:
        _blocks(panels[3], rows)
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{content['stream']['name']}: {' + '.join(content['config']['strategy'])}")
    return figure


def _divergence(axes: Axes, rows: Rows, shades: dict[str, Any]) -> None:
    for suite, shade in shades.items():
        own = [row for row in rows if row["suite"] == suite]
        axes.plot([r["steps"] for r in own], [r["kl"] for r in own], ".-", color=shade, label=suite, linewidth=1.2)
    ends = {row["task"]: row["steps"] for row in rows if row["task"] is not None}  # the last look of each
    lines = list(ends.values())[:-1]
    axes.vlines(lines, 0, 1, transform=axes.get_xaxis_transform(), color=FAINT, linewidth=0.8, linestyle=":", zorder=0)
    axes.set(xlabel="steps", ylabel="divergence from the base, nats", xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False, fontsize=8, title="held out", title_fontsize=8)


def _against_forgetting(axes: Axes, rows: Rows, shades: dict[str, Any], content: dict[str, Any]) -> None:
    for suite, shade in shades.items():
        accuracy = content["held_out"][suite]["accuracy"]
        last = {row["task"]: row["kl"] for row in rows if row["suite"] == suite and row["task"] is not None}
        known = [(t, kl) for t, kl in last.items() if accuracy[t + 1] is not None]
        x, y = [kl for _, kl in known], [accuracy[t + 1] - accuracy[0] for t, _ in known]
        axes.plot(x, y, "o", color=shade, markersize=5)
        for (task, _), *place in zip(known, x, y, strict=True):
            if len(known) <= 12:
                axes.annotate(str(task), (place[0], place[1]), xytext=(4, 3), textcoords="offset points", fontsize=7)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set(xlabel="divergence from the base, nats", ylabel="change of held-out accuracy")
    axes.set_title("after each task", fontsize=9, color="#555555")


def _masses(axes: Axes, rows: Rows, what: str) -> None:
    """Draw the mean over suites."""
    steps = list(dict.fromkeys(row["steps"] for row in rows))
    names = list(rows[0]["mass"])[:12]
    for name, shade in zip(names, colormaps["tab20"](range(len(names))), strict=True):
        means = []
        for step in steps:
            found = [row["mass"][name] for row in rows if row["steps"] == step]
            means.append(sum(found) / len(found))
        axes.plot(steps, means, ".-", color=shade, label=name, linewidth=1.2)
    axes.set(xlabel="steps", ylabel=f"probability of a group of {what}", xlim=(0, None), ylim=(0, None))
    if names:
        axes.legend(frameon=False, fontsize=8)


def _blocks(axes: Axes, rows: Rows) -> None:
    """Draw the last look, mean over suites."""
    last = list({row["suite"]: row for row in rows}.values())
    for place, (kind, colour) in enumerate((("attention", "#0b5394"), ("mlp", "#b45f06"))):
        values = [sum(block) / len(last) for block in zip(*(row[kind] for row in last), strict=True)]
        x = [number + 1 + (place - 0.5) * 0.38 for number in range(len(values))]
        axes.bar(x, values, 0.36, color=colour, label="MLP" if kind == "mlp" else kind)
    axes.set(xlabel="block", ylabel="how far it moves the logits")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("at the end", fontsize=9, color="#555555")
    axes.legend(frameon=False, fontsize=8)
