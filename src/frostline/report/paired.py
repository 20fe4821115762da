"""Is the difference real? Configurations against each other, run against run of one seed."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from frostline.core.checks import UsageError
from frostline.report import statistics
from frostline.report.columns import less_is_better
from frostline.report.groups import Group, by_stream
from frostline.report.statistics import ALPHA, FEW, Difference

MOST_SENTENCES = 6
MOST_PAIRS = 45  # more are not compared all with all, but each with the best


@dataclass(frozen=True)
class Pair:
    """One configuration against another in one thing. a is the one that is better on average."""

    a: Group
    b: Group
    column: str
    seeds: list[int]
    unpaired: list[int]  # seeds that one of them has not
    found: Difference
    price: float | None  # operations of a over those of b
    margin: float | None = None
    no_worse: float = np.nan  # p of 'the cheaper falls short by the margin'

    @property
    def cheaper(self) -> Group:
        """The one that takes fewer operations; b where they take the same."""
        return self.b if (self.price or 1) >= 1 else self.a


def pairs(groups: Sequence[Group], column: str = "accuracy", margin: float | None = None) -> list[Pair]:
    """Return the pairs of each stream's groups, Holm's correction over all of them; UsageError where none can be made."""
    found: list[Pair] = []
    sign = 1 if less_is_better(column) else -1
    for own in by_stream(groups).values():
        mine = sorted((g for g in own if g.values(column)), key=lambda g: sign * g.mean(column))
        whole = len(mine) * (len(mine) - 1) // 2 <= MOST_PAIRS
        for a, b in combinations(mine, 2) if whole else ((mine[0], other) for other in mine[1:]):
            if pair := _pair(a, b, column, margin):
                found.append(pair)
    if not found:
        raise UsageError(
            f"Nothing to compare in pairs by {column}: expected two configurations of one stream that share a seed; there are "
            f"{'; '.join(f'{g.label} (seeds {_seeds(sorted(g.by_seed(column)))})' for g in groups[:6])}."
        )
    for place, p in enumerate(statistics.holm([pair.found.p for pair in found])):
        found[place] = replace(found[place], found=replace(found[place].found, holm=p))
    return found


def _pair(a: Group, b: Group, column: str, margin: float | None) -> Pair | None:
    values_a, values_b = a.by_seed(column), b.by_seed(column)
    seeds = sorted(values_a.keys() & values_b.keys())
    if not seeds:
        return None
    price, (x, y) = None, ([values[s] for s in seeds] for values in (values_a, values_b))
    flops_a, flops_b = a.by_seed("flops"), b.by_seed("flops")
    if all(flops_a.get(s) and flops_b.get(s) for s in seeds):
        price = float(np.mean([flops_a[s] for s in seeds]) / np.mean([flops_b[s] for s in seeds]))
    short = np.nan
    if margin is not None:
        sign = -1 if less_is_better(column) else 1
        cheaper, dearer = (y, x) if (price or 1) >= 1 else (x, y)
        short = statistics.no_worse(sign * np.array(cheaper), sign * np.array(dearer), margin)
    return Pair(
        a,
        b,
        column,
        seeds,
        sorted(values_a.keys() ^ values_b.keys()),
        statistics.difference(x, y),
        price,
        margin,
        short,
    )


def sentences(found: Sequence[Pair]) -> Iterator[str]:
    """Yield what each comparison came to: which is better, by how much, how surely, at what price."""
    for pair in found:
        yield f"{_verdict(pair, len(found))}{_price(pair)}{_margin(pair)}"


def _verdict(pair: Pair, count: int) -> str:
    d, name = pair.found, pair.column.replace("_", " ")
    word = "lower" if less_is_better(pair.column) else "higher"
    left = f"; seeds {_seeds(pair.unpaired)} have no counterpart" if pair.unpaired else ""
    if not d.mean and not d.p < 1:
        return (
            f"No difference in {name} between {pair.a.method} and {pair.b.method} (seeds {_seeds(pair.seeds)}{left})."
        )
    what = f"{pair.a.method} has {word} {name} than {pair.b.method}, by {abs(d.mean):.3g}"
    if d.count == 1:
        return f"{what}; of one seed ({pair.seeds[0]}{left}), which says nothing about others."
    low, high = sorted((abs(d.low), abs(d.high))) if d.low * d.high > 0 else (d.low, d.high)
    test = f"95 % interval {low:.3g} to {high:.3g}; p = {d.holm:.2g}, permutation test over {d.count} pairs"
    test += f", seeds {_seeds(pair.seeds)}"
    test += f", Holm over {count} comparisons" if count > 1 else ""
    sure = "This is shown" if d.holm < ALPHA else "This is not shown"
    if d.holm >= ALPHA and d.least_p >= ALPHA:
        sure += f": {d.count} pairs cannot come below p = {d.least_p:.2g}, six can"
    few = ", few seeds" if d.count < FEW else ""
    return f"{what} ({test}{few}{left}). {sure}. Effect size d = {d.effect:.2g}."


def _price(pair: Pair) -> str:
    if pair.price is None:
        return ""
    return (
        f" It takes {pair.price:.2f} times the operations of learning." if pair.price != 1 else " Operations are equal."
    )


def _margin(pair: Pair) -> str:
    if pair.margin is None:
        return ""
    cheaper, dearer = pair.cheaper, pair.a if pair.cheaper is pair.b else pair.b
    if np.isnan(pair.no_worse):
        return f" One seed cannot show whether {cheaper.method} is within {pair.margin:g}."
    shown = "shown" if pair.no_worse < ALPHA else "not shown"
    test = f"one-sided paired t-test, p = {pair.no_worse:.2g}"
    return f" The cheaper, {cheaper.method}, is {shown} to be within {pair.margin:g} of {dearer.method} ({test})."


def pairs_table(found: Sequence[Pair]) -> Table:
    """Return the comparisons as a table, for more than one reads as sentences."""
    name, margin, count = found[0].column.replace("_", " "), found[0].margin, len(found)
    table = Table(
        title=f"Pairs of one seed by {name}: difference, 95 % interval, p by Holm over {count}, * where it is shown",
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    heads = ["a", "b", "a - b", "interval", "p", "pairs", "operations a/b"]
    if margin is not None:
        heads.append(f"the cheaper within {margin:g}")
    for head in heads:
        table.add_column(head, overflow="fold")
    for p in found:
        d, cheaper = p.found, p.cheaper
        cells = [
            escape(p.a.method), escape(p.b.method), f"{d.mean:.3g}", f"{d.low:.3g} to {d.high:.3g}",
            f"{d.holm:.2g}{'*' if d.holm < ALPHA else ''}", str(d.count), "-" if p.price is None else f"{p.price:.2f}",
        ]  # fmt: skip
        if margin is not None:
            word = "shown" if p.no_worse < ALPHA else "not shown"
            cells.append(f"{escape(cheaper.method)}: {word} (p = {p.no_worse:.2g})")
        table.add_row(*cells)
    fewest = min(found, key=lambda p: p.found.count).found
    if fewest.least_p >= ALPHA:
        table.caption = (
            f"{fewest.count} pairs cannot come below p = {fewest.least_p:.2g}; six can, more where many are compared"
        )
    return table


def _seeds(seeds: Sequence[int]) -> str:
    """Return seeds as people write them: 0-4, 7."""
    parts: list[str] = []
    for seed in seeds:
        first, _, last = parts[-1].partition("-") if parts else ("", "", "")
        if parts and seed == int(last or first) + 1:
            parts[-1] = f"{first}-{seed}"
        else:
            parts.append(str(seed))
    return ", ".join(parts)


def as_rows(found: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the comparisons as plain rows."""
    return [
        {"a": p.a.label, "b": p.b.label, "column": p.column, "seeds": p.seeds, "unpaired": p.unpaired, **asdict(p.found),
         "price": p.price, "margin": p.margin, "no_worse_p": None if np.isnan(p.no_worse) else p.no_worse}
        for p in found
    ]  # fmt: skip
