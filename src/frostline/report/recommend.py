"""Which configuration to take: what keeps within bounds, how surely, and what a cheaper and a better one would change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from scipy import stats

from frostline.core.checks import UsageError, in_range, one_of
from frostline.report.columns import COLUMNS, COSTS, less_is_better
from frostline.report.console import wide_console
from frostline.report.finding import find_runs
from frostline.report.groups import REFERENCE, Group, by_stream, group_runs
from frostline.report.statistics import FEW

MOST_ROWS = 10


@dataclass(frozen=True)
class Bound:
    """A column that is to stay at or below `limit`, or at or above it."""

    column: str
    limit: float
    above: bool = False

    def kept(self, mean: float) -> bool:
        """Tell whether a mean keeps it."""
        return mean >= self.limit if self.above else mean <= self.limit

    def missed_by(self, mean: float) -> float:
        """Return by how much a mean misses it, as a share of the limit where that is not 0."""
        gap = (self.limit - mean) if self.above else (mean - self.limit)
        return max(0.0, gap) / (abs(self.limit) or 1.0)

    def certainty(self, values: Sequence[float]) -> float:
        """Return how surely the mean over all seeds keeps it, 1 - p of the one-sided t-test; NaN for one seed."""
        x = np.asarray(values, dtype=np.float64) * (1 if self.above else -1)
        limit = self.limit if self.above else -self.limit
        if len(x) < 2:
            return np.nan
        spread = x.std(ddof=1) / np.sqrt(len(x))
        if spread < 1e-9 * max(1.0, abs(limit)):  # operations do not vary
            return float(x.mean() >= limit)
        return float(stats.t.cdf((x.mean() - limit) / spread, len(x) - 1))

    def __str__(self) -> str:
        return f"{self.column.replace('_', ' ')} {'>=' if self.above else '<='} {self.limit:g}"


@dataclass(frozen=True)
class Choice:
    """A configuration, its means of the bounded columns, and how surely it keeps all the bounds (the least sure of them)."""

    group: Group
    preferred: float
    cost: float
    means: list[float]
    certainty: float


def recommend(
    folders: Sequence[Path],
    *,
    max_cost: float | None = None,
    max_forgetting: float | None = None,
    min_accuracy: float | None = None,
    prefer: str = "accuracy",
    cost: str = "of_full",
) -> list[Choice]:
    """Print what keeps within the bounds, best first, for each stream; return it.

    max_cost: in the column `cost`, by default the share of full fine-tuning's operations. prefer: the column to be best in.
    """
    one_of("--prefer", prefer, COLUMNS)
    one_of("--cost", cost, COSTS)
    in_range("--max-cost", max_cost, 0, above=True)
    wanted = ((cost, max_cost, False), ("forgetting", max_forgetting, False), ("accuracy", min_accuracy, True))
    bounds = [Bound(column, limit, above) for column, limit, above in wanted if limit is not None]
    console = wide_console()
    groups = group_runs(find_runs(folders, console))
    found: list[Choice] = []
    for stream, own in by_stream(groups).items():
        mine = choices(own, bounds, prefer, cost)
        within = [c for c in mine if all(b.kept(m) for b, m in zip(bounds, c.means, strict=True))]
        console.print(_table(stream, within or mine, bounds, prefer, cost, bool(within)))
        for text in advice(mine, within, bounds, prefer, cost):
            console.print(escape(text), soft_wrap=True, highlight=False)
        found += within
    return found


def choices(groups: Sequence[Group], bounds: Sequence[Bound], prefer: str, cost: str) -> list[Choice]:
    """Return the groups that have all the columns, best first; UsageError where none has."""
    columns = list(dict.fromkeys((prefer, cost, *(b.column for b in bounds))))
    chosen = [g for g in groups if g.strategy != REFERENCE and all(g.values(c) for c in columns)]
    if not chosen:
        lacking = next((c for c in columns if not any(g.values(c) for g in groups)), columns[0])
        raise UsageError(f"No run of {groups[0].stream} says its {lacking}. Expected runs that do, or another column.")
    made = []
    for g in chosen:
        sure = [b.certainty(g.values(b.column)) for b in bounds]
        means = [g.mean(b.column) for b in bounds]
        made.append(Choice(g, g.mean(prefer), g.mean(cost), means, min(sure, default=1.0)))
    return sorted(made, key=lambda c: (c.preferred if less_is_better(prefer) else -c.preferred, c.cost))


def advice(
    every: Sequence[Choice], within: Sequence[Choice], bounds: Sequence[Bound], prefer: str, cost: str
) -> Iterator[str]:
    """Yield what to take, and what the next cheaper and the next better would change; or what comes nearest."""
    said = " and ".join(map(str, bounds)) or "no bound"
    if not within:
        yield f"None of {len(every)} configurations keeps {said}."
        nearest = min(every, key=lambda c: max(b.missed_by(m) for b, m in zip(bounds, c.means, strict=True)))
        misses = [f"{b} (it has {m:.3g})" for b, m in zip(bounds, nearest.means, strict=True) if not b.kept(m)]
        yield f"Nearest is {nearest.group.method}, which misses {' and '.join(misses)}."
        return
    best, name = within[0], prefer.replace("_", " ")
    price = f"{cost.replace('_', ' ')} {best.cost:.3g}"
    yield f"Take {best.group.method}: {name} {best.preferred:.3g} at {price}{_surely(best, said)}."
    better = (lambda a, b: a < b) if less_is_better(prefer) else (lambda a, b: a > b)
    cheaper = [c for c in within if c.cost < best.cost] or [c for c in every if c.cost < best.cost]
    if cheaper:
        yield f"Next cheaper: {_change(cheaper[0], best, bounds, name)}"
    dearer = [c for c in every if better(c.preferred, best.preferred)]
    if dearer:
        yield f"Next better: {_change(min(dearer, key=lambda c: c.cost), best, bounds, name)}"
    elif not cheaper:
        yield "Nothing here is cheaper or better."


def _surely(choice: Choice, said: str) -> str:
    count = len(choice.group.runs)
    if count < 2:
        return ", of one seed, so how surely it keeps its bounds is not known"
    few = " (few seeds)" if count < FEW else ""
    return f"; it keeps {said} with a certainty of {choice.certainty:.2g}, {count} seeds{few}"


def _change(other: Choice, best: Choice, bounds: Sequence[Bound], name: str) -> str:
    """Return what taking the other instead would change."""
    ratio = f"{other.cost / best.cost:.2f} times the cost" if best.cost else f"cost {other.cost:.3g}"
    broken = [f"{b} ({m:.3g})" for b, m in zip(bounds, other.means, strict=True) if not b.kept(m)]
    return (
        f"{other.group.method}, {name} {other.preferred - best.preferred:+.3g} at {ratio}"
        f"{', but it breaks ' + ' and '.join(broken) if broken else ''}."
    )


def _table(
    stream: str, shown: Sequence[Choice], bounds: Sequence[Bound], prefer: str, cost: str, within: bool
) -> Table:
    title = "within the bounds, best first" if within else "nothing is within the bounds; all, best first"
    table = Table(title=escape(f"{stream}: {title}"), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = list(dict.fromkeys((prefer, cost, *(b.column for b in bounds))))
    for head in ("configuration", "seeds", *columns, "certainty"):
        table.add_column(head, justify="left" if head == "configuration" else "right")
    for c in shown[:MOST_ROWS]:
        means = [f"{c.group.mean(column):.3g}" for column in columns]
        sure = "-" if np.isnan(c.certainty) else f"{c.certainty:.2g}"
        table.add_row(escape(c.group.method), str(len(c.group.runs)), *means, sure)
    if len(shown) > MOST_ROWS:
        table.caption = f"and {len(shown) - MOST_ROWS} more"
    return table
