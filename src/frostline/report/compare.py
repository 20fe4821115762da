"""Runs side by side: one row a configuration, with the mean and its 95 % confidence interval over seeds."""

import csv
import json
import shlex
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, ScalarFormatter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.files import atomic_write, make_folder
from frostline.report.columns import COLUMNS as KNOWN
from frostline.report.console import wide_console
from frostline.report.figures import MARKS, save_figure
from frostline.report.finding import find_runs
from frostline.report.groups import Group, by_accuracy, group_runs
from frostline.report.outcome import sentence
from frostline.report.page import write_page
from frostline.report.paired import MOST_SENTENCES, Pair, pairs, pairs_table, sentences
from frostline.report.paired import as_rows as pair_rows
from frostline.report.ranking import over_streams, ranking_figure, ranking_sentence
from frostline.report.repricing import reprice
from frostline.report.tables import si

COLUMNS = ("accuracy", "learned", "forgetting", "intransigence", "flops", "of_full", "seconds", "usd")
HEADS = {"flops": "FLOPs", "of_full": "of full", "usd": "USD"}
KINDS = ("png", "pdf", "svg")
NAMED = 24  # groups; where more are compared, the figure names strategies only


def compare_folders(
    folders: Sequence[Path],
    out: Path,
    *,
    page: bool = False,
    as_json: bool = False,
    latex: bool = False,
    paired: bool = False,
    by: str = "accuracy",
    margin: float | None = None,
    figures: bool = False,
    book: str | None = None,
    books: Path | None = None,
) -> list[Group]:
    """Print the table of all runs below `folders`; write it as CSV and draw accuracy against cost.

    page: write comparison.html too; as_json: comparison.json; latex: comparison.tex; figures: the page's as files.
    paired: say which configuration is better `by` what, runs of one seed against each other; margin: how much worse the
    cheaper of a pair may be and still do. book: the name of the price book in `books` to price the runs by.
    """
    one_of("--by", by, KNOWN)
    in_range("--margin", margin, 0, above=True)
    console, left_out = wide_console(), []
    runs = find_runs(folders, console, left_out)
    if book is not None and books is not None:
        runs, words = reprice(runs, book, books)
        console.print(f"[yellow]{escape(words)}[/]", soft_wrap=True, highlight=False)
    groups = group_runs(runs)
    found = pairs(groups, by, margin) if paired or margin is not None else []
    console.print(_table(groups))
    for remark in _remarks(groups):
        console.print(f"[yellow]{escape(remark)}[/]", soft_wrap=True)
    make_folder(out, "--to")
    rows = as_rows(groups)
    with atomic_write(out / "comparison.csv") as f:
        lines = csv.DictWriter(f, rows[0])
        lines.writeheader()
        lines.writerows(rows)
    if as_json:
        content = {"schema": "frostline.comparison/1", "groups": rows, "pairs": pair_rows(found), "left_out": left_out}
        with atomic_write(out / "comparison.json") as f:
            json.dump(_plain(content), f, indent=1, allow_nan=False)
    if latex:
        with atomic_write(out / "comparison.tex") as f:
            f.write(_latex(groups))
    if page:
        write_page(groups, left_out, out / "comparison.html")
    save_figure(accuracy_against_cost(groups), out / "accuracy_against_cost", KINDS)
    if figures:
        from frostline.report.paper_figures import paper_figures

        for name, figure in paper_figures(groups):
            save_figure(figure, out / name, KINDS)
    if found:
        _print_pairs(found, groups, by, out, console)
    console.print(f"Table and figure: [bold]{escape(str(out))}[/]", soft_wrap=True)
    return groups


def _print_pairs(found: list[Pair], groups: list[Group], by: str, out: Path, console: Console) -> None:
    """Print what the pairs came to, and the ranks over streams, whose diagram is drawn."""
    if len(found) > MOST_SENTENCES:
        console.print(pairs_table(found))
    for text in sentences(found) if len(found) <= MOST_SENTENCES else ():
        console.print(escape(text), soft_wrap=True, highlight=False)
    if ranks := over_streams(groups, by):
        console.print(escape(ranking_sentence(ranks)), soft_wrap=True, highlight=False)
        save_figure(ranking_figure(ranks), out / "critical_difference", KINDS)


def summarise(folder: Path) -> None:
    """Print what the complete runs below a sweep's folder came to: the table, and each configuration in a sentence."""
    console = wide_console()
    try:
        groups = group_runs(find_runs([folder], console))
    except UsageError:
        return  # none is complete, which was said when each failed
    with console:
        console.print(_table(groups))
        for remark in _remarks(groups):
            console.print(f"[yellow]{escape(remark)}[/]", soft_wrap=True)
        for group in groups if len(groups) <= 8 else ():
            if text := sentence(group.runs):
                console.print(f"[bold]{escape(group.label)}[/]: {text}.", soft_wrap=True, highlight=False)
        console.print(
            f"More, and figures: frostline compare {escape(shlex.quote(str(folder)))}", soft_wrap=True, highlight=False
        )


def as_rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return a row a group: of each column mean, half of Student's interval, the bootstrap's, median, interquartile mean."""
    rows = []
    for group in groups:
        row: dict[str, Any] = {"configuration": group.label, "stream": group.stream, "seeds": len(group.runs)}
        for column in (c for c in KNOWN if any(g.values(c) for g in groups)):
            of = group.summary(column)
            parts = (None,) * 6 if of is None else (of.mean, of.t[1] - of.mean, *of.bca, of.median, of.iqm)
            names = ("mean", "ci95", "bca_low", "bca_high", "median", "iqm")
            row |= {f"{column}_{name}": value for name, value in zip(names, parts, strict=True)}
        rows.append(row)
    return rows


def _plain(value: Any) -> Any:
    """Return nested values without what JSON has no word for."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _latex(groups: Sequence[Group]) -> str:
    """Return the printed table for a paper that loads booktabs."""
    import pandas

    shown = _shown(groups)
    rows = [[g.label, len(g.runs), *(cell(c, g.interval(c)) for c in shown)] for g in by_accuracy(groups)]
    frame = pandas.DataFrame(rows, columns=["configuration", "seeds", *(HEADS.get(c, c) for c in shown)])
    return frame.to_latex(index=False, escape=True, column_format="lr" + "r" * len(shown)).replace("±", r"$\pm$")


def _remarks(groups: list[Group]) -> Iterator[str]:
    """Yield what a reader of the table must know: repeated runs, and groups whose runs learned from different data."""
    for group in groups:
        if group.repeated:
            yield f"left out: {group.repeated} of {group.label} whose seed another run has too (the last of a seed counts)"
        if group.data > 1:
            yield f"the runs of {group.label} learned from {group.data} different data sets, though their settings are the same"


def _shown(groups: Sequence[Group]) -> list[str]:
    """Return the columns that say something."""
    free = all((g.interval("usd") or (0, 0))[0] == 0 for g in groups)
    return [c for c in COLUMNS if any(g.interval(c) for g in groups) and not (c == "usd" and free)]


def _table(groups: list[Group]) -> Table:
    shown = _shown(groups)
    table = Table(
        title="Mean ± 95 % confidence interval over seeds; costs are those of learning",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("configuration", overflow="fold", min_width=22)
    table.add_column("seeds", justify="right", no_wrap=True)
    for column in shown:
        table.add_column(HEADS.get(column, column), justify="right", no_wrap=True)
    for group in by_accuracy(groups):
        table.add_row(
            escape(group.label), str(len(group.runs)), *(cell(column, group.interval(column)) for column in shown)
        )
    return table


def cell(column: str, interval: tuple[float, float] | None) -> str:
    """Return a mean and the half-width of its interval as text."""
    if interval is None:
        return "-"
    mean, half = interval
    write = {"flops": si, "usd": "{:.3g}".format, "seconds": "{:.1f}".format}.get(column, "{:.3f}".format)
    return write(mean) if np.isnan(half) or half < 1e-9 * abs(mean) else f"{write(mean)} ± {write(half)}"


def accuracy_against_cost(groups: list[Group]) -> Figure:
    """Return final accuracy against the FLOPs and the seconds of learning, a point a configuration."""
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    colours = {name: f"C{number % 10}" for number, name in enumerate(dict.fromkeys(g.strategy for g in groups))}
    for place, (column, label) in enumerate((("flops", "FLOPs"), ("seconds", "seconds"))):
        axes = figure.add_subplot(1, 2, place + 1)
        places: Counter[str] = Counter()  # colours tell strategies apart, markers a strategy's groups
        highest = 0.0
        for group in groups:
            (x, dx), (y, dy) = (group.interval(c) or (np.nan, np.nan) for c in (column, "accuracy"))
            few = len(group.runs) == 2  # whose interval is twelve times as long as they are apart
            if few:
                axes.plot(group.values(column), group.values("accuracy"), ".", color=colours[group.strategy], alpha=0.5)
            axes.errorbar(
                x, y, xerr=dx if dx > 0 and not few else None, yerr=dy if dy > 0 and not few else None,
                fmt=MARKS[places[group.strategy] % len(MARKS)], color=colours[group.strategy], capsize=3,
                label=group.label if len(groups) <= NAMED else "" if places[group.strategy] else group.strategy,
            )  # fmt: skip
            places[group.strategy] += 1
            highest = np.nanmax([highest, x])
        axes.set_xlabel(f"{label} spent on learning")
        axes.set_xlim(0, 1.15 * highest or 1)
        axes.xaxis.set_major_formatter(EngFormatter() if column == "flops" else ScalarFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(5))  # engineering units are wide
        low, high = axes.get_ylim()
        axes.set_ylim(max(0.0, np.floor(10 * low) / 10), min(1.0, np.ceil(10 * high) / 10) + 0.02)
        axes.set_yticks([tick for tick in axes.get_yticks() if tick < min(1.01, axes.get_ylim()[1])])  # none is above 1
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("average accuracy after the last task")
    seeds = {len(group.runs) for group in groups}
    bars = "one seed"
    if max(seeds) == 2:
        bars = "mean of two seeds, a dot each"
    elif max(seeds) > 2:
        bars = f"mean and 95 % interval over {seeds.pop() if len(seeds) == 1 else 'all'} seeds"
    streams = dict.fromkeys(run["stream"]["name"] for group in groups for run in group.runs)
    figure.suptitle(f"{', '.join(streams)}: {bars}", fontsize=10)
    handles, names = figure.axes[0].get_legend_handles_labels()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if max(map(len, names)) < 30:
            figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8)
        else:  # long ones would take the axes' room
            figure.legend(handles, names, loc="outside lower left", frameon=False, fontsize=8, ncols=2)
    return figure
