"""Methods over several streams: mean ranks, what they tell apart, and the critical-difference diagram."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from frostline.report.columns import less_is_better
from frostline.report.groups import Group
from frostline.report.statistics import ALPHA, FEW


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of methods over streams (1 is best), Friedman's p, and Nemenyi's p for each pair [M, M]."""

    methods: list[str]
    streams: int
    ranks: np.ndarray
    friedman: float
    pairs: np.ndarray


def ranking(methods: Sequence[str], scores: np.ndarray) -> Ranking:
    """Rank methods by scores [streams, methods], higher is better (Demsar 2006, JMLR 7: 1-30)."""
    from scikit_posthocs import posthoc_nemenyi_friedman

    ranks = stats.rankdata(-scores, axis=1).mean(0)
    test: Any = stats.friedmanchisquare(*scores.T)
    return Ranking(
        list(methods),
        len(scores),
        ranks,
        float(test.pvalue),
        np.asarray(posthoc_nemenyi_friedman(scores), dtype=np.float64),
    )


def over_streams(groups: Sequence[Group], column: str = "accuracy") -> Ranking | None:
    """Rank the methods that every stream has; None where there are fewer than two streams or three such methods."""
    scores = {(g.stream, g.method): g.mean(column) for g in groups if g.values(column)}
    streams = list(dict.fromkeys(stream for stream, _ in scores))
    methods = [m for m in dict.fromkeys(m for _, m in scores) if all((s, m) in scores for s in streams)]
    if len(streams) < 2 or len(methods) < 3:
        return None
    sign = -1 if less_is_better(column) else 1
    return ranking(methods, sign * np.array([[scores[s, m] for m in methods] for s in streams]))


def ranking_sentence(found: Ranking) -> str:
    """Return what the ranks over several streams say."""
    order = np.argsort(found.ranks)
    ranks = ", ".join(f"{found.methods[i]} {found.ranks[i]:.2f}" for i in order)
    best, apart = order[0], [i for i in order[1:] if found.pairs[order[0], i] < ALPHA]
    told = ", ".join(found.methods[i] for i in apart) or "none"
    few = ", few streams" if found.streams < FEW else ""
    return (
        f"Mean ranks over {found.streams} streams{few} (1 is best): {ranks}. Friedman's p = {found.friedman:.2g}; by "
        f"Nemenyi's test {found.methods[best]} is told apart from: {told}."
    )


def ranking_figure(found: Ranking) -> Figure:
    """Return the critical-difference diagram: methods at their mean ranks, a bar over those not told apart."""
    import pandas
    from scikit_posthocs import critical_difference_diagram

    figure = Figure(figsize=(8.4, 1.6 + 0.22 * len(found.methods)), layout="constrained")
    ranks = pandas.Series(found.ranks, index=found.methods)
    pairs = pandas.DataFrame(found.pairs, index=found.methods, columns=found.methods)
    axes = figure.add_subplot()
    critical_difference_diagram(
        ranks, pairs, ax=axes, label_fmt_left="{label} ({rank:.2f})", label_fmt_right="({rank:.2f}) {label}"
    )
    axes.set_title("mean rank; a bar joins what Nemenyi's test does not tell apart", fontsize=9)
    return figure
