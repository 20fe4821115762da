"""Published figures beside ours: what a paper says, how far from it still counts as the same, and what came out here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from yaml import YAMLError

from frostline.core import metrics
from frostline.core.checks import UsageError, in_range, one_of
from frostline.report.columns import COLUMNS
from frostline.report.groups import value_of

PROTOCOL, RESULT = "paper.yaml", "result.json"
REPRODUCED, MISSED, UNBOUND, NOT_RUN = "reproduced", "not reproduced", "no bound", "not run here"
ONLINE = "training_loss"  # the mean over a stretch of the stream, of losses before learning where it is seen once


@dataclass
class Claim:
    """One published figure.

    run: where ours comes from; the claim's own name where empty. value: a column of comparisons, or training_loss, the
    mean from `begin` to `end` of the stream. minus, over: a run that it is taken from, or divided by, seed by seed. published,
    spread: as printed, the standard deviation over runs. between: what counts as reproduced where that is not `tolerance`
    spreads around the published figure. bound: false where nothing is to be decided, since the figure is not certain
    enough. note: what one should know.
    """

    run: str = ""
    value: str = ""
    minus: str = ""
    over: str = ""
    begin: float = 0.0
    end: float = 1.0
    scale: float | None = None
    published: float | None = None
    spread: float | None = None
    between: list[float] | None = None
    bound: bool = True
    note: str = ""


@dataclass
class Paper:
    """A paper's protocol and figures, as paper.yaml has them.

    settings: what all runs share; runs: what each has of its own. vary: settings of the i-th repetition, each a run of its
    own; otherwise all seeds learn at once where at_once says so. tolerance: how many published standard deviations
    may lie between, at least `least`. why_not: why it is not run.
    """

    title: str = ""
    link: str = ""
    where: str = ""
    settings: list[str] = field(default_factory=list)
    runs: dict[str, list[str]] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    vary: list[list[str]] = field(default_factory=list)
    seeds: int = 5
    at_once: bool = True
    value: str = "accuracy"
    scale: float = 100.0
    tolerance: float = 2.0
    least: float = 0.0
    why_not: str = ""


def read_paper(folder: Path) -> Paper:
    """Return the protocol in a folder; UsageError where there is none, or where it does not hold together."""
    path = folder / PROTOCOL
    try:
        paper = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Paper), OmegaConf.load(path)))
    except FileNotFoundError:
        raise UsageError(f"{folder}: expected a {PROTOCOL}, a paper's protocol and figures.") from None
    except (OmegaConfBaseException, YAMLError, ValueError, OSError) as error:
        raise UsageError(f"{path} is no protocol: {' '.join(str(error).split())}") from None
    assert isinstance(paper, Paper)
    if not paper.runs:
        raise UsageError(
            f"{path}: there are no runs. Expected runs: {{NAME: [SETTING=VALUE, ...]}}, claims: and a title."
        )
    in_range(f"{path}: seeds", paper.seeds, 1)
    for name, claim in paper.claims.items():
        claim.run, claim.value = claim.run or name, claim.value or paper.value
        claim.scale = paper.scale if claim.scale is None else claim.scale
        for run in filter(None, (claim.run, claim.minus, claim.over)):
            one_of(f"{path}: claims.{name}: run", run, tuple(paper.runs))
        if claim.between is not None and (len(claim.between) != 2 or claim.between[0] > claim.between[1]):
            raise UsageError(
                f"{path}: claims.{name}.between={claim.between}: expected the lowest and the highest, [2, 3]."
            )
        one_of(f"{path}: claims.{name}.value", claim.value, (*COLUMNS, *metrics.NAMES, ONLINE))
    return paper


def bounds(paper: Paper, claim: Claim) -> tuple[float, float] | None:
    """Return between what our mean counts as the published one; None where nothing is decided."""
    if claim.between is not None:
        low, high = claim.between
        return low, high
    if claim.published is None or not claim.bound:
        return None
    reach = max(paper.tolerance * (claim.spread or 0.0), paper.least)
    return claim.published - reach, claim.published + reach


@dataclass(frozen=True)
class Outcome:
    """What came out here: the mean and the standard deviation over runs, and how many there were."""

    mean: float
    spread: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Outcome":
        """Return the outcome of some runs."""
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(float(np.mean(values)), spread, len(values))


def verdict(paper: Paper, claim: Claim, found: Outcome | None) -> str:
    """Say whether the mean over our runs lies within the bounds that were fixed before."""
    if found is None:
        return NOT_RUN
    limits = bounds(paper, claim)
    if limits is None:
        return UNBOUND
    return REPRODUCED if limits[0] <= found.mean <= limits[1] else MISSED


def measured(claim: Claim, runs: Mapping[str, Mapping[int, dict[str, Any]]]) -> list[float]:
    """Return the claim's value of each seed that every run it needs has. runs: results by name and seed."""
    needed = [name for name in (claim.run, claim.minus, claim.over) if name]
    seeds = sorted(set.intersection(*(set(runs.get(name, {})) for name in needed)))
    found = []
    for seed in seeds:
        values = [_value(claim, runs[name][seed]) if name else 0.0 for name in (claim.run, claim.minus, claim.over)]
        if None in values or (claim.over and not values[2]):
            continue  # a run that was not asked for it, or that cost nothing
        own, less, whole = (float(value or 0.0) for value in values)
        found.append((claim.scale or 1.0) * ((own - less) / whole if claim.over else own - less))
    return found


def _value(claim: Claim, run: dict[str, Any]) -> float | None:
    if claim.value == ONLINE:
        losses = run["training_loss"]
        return float(np.mean(losses[round(claim.begin * len(losses)) : round(claim.end * len(losses))]))
    return value_of(run, claim.value)


def bill(runs: Mapping[str, Mapping[int, dict[str, Any]]]) -> dict[str, float]:
    """Return what all runs took, evaluation included."""
    rows = [row for seeds in runs.values() for run in seeds.values() for row in run["ledger"]]
    return {
        key: sum(row[key] for row in rows if row.get(key) is not None)
        for key in ("flops", "seconds", "energy_joules", "usd")
    }


def read_result(folder: Path) -> dict[str, Any]:
    """Return what came out where it was run; empty where it was not, or where the file says something else."""
    try:
        content = json.loads((folder / RESULT).read_text("utf-8"))
        for figure in content["figures"].values():
            Outcome(**figure)
        paid = content.get("bill", {"flops": 0, "seconds": 0})
        known = all(isinstance(paid[key], int | float) for key in ("flops", "seconds"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return content if known else {}


def show(name: str, paper: Paper, result: Mapping[str, Any], console: Console) -> dict[str, int]:
    """Print a paper's figures beside ours; return how many have which verdict."""
    figures = result.get("figures", {})
    counts: dict[str, int] = dict.fromkeys((REPRODUCED, MISSED, UNBOUND, NOT_RUN), 0)
    console.print(f"\n[bold]{escape(name)}[/]: {escape(paper.title)}", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in ("figure", "published", "within", "here", "seeds", "verdict"):
        table.add_column(column, justify="left" if column in ("figure", "verdict") else "right")
    for key, claim in paper.claims.items():
        found = Outcome(**figures[key]) if key in figures else None
        said, limits = verdict(paper, claim, found), bounds(paper, claim)
        counts[said] += 1
        style = {REPRODUCED: "green", MISSED: "red"}.get(said, "dim")
        table.add_row(
            escape(key.replace("_", " ")),
            "" if claim.published is None else _number(claim.published, claim.spread),
            "" if limits is None else f"{limits[0]:.4g} to {limits[1]:.4g}",
            "" if found is None else _number(found.mean, found.spread),
            "" if found is None else str(found.seeds),
            f"[{style}]{said}[/]{f' ({escape(claim.note)})' if claim.note else ''}",
        )
    console.print(table)
    if paper.why_not and not result:
        console.print(f"  Not run here: {escape(paper.why_not)}", soft_wrap=True)
    for run, reason in result.get("refused", {}).items():
        console.print(f"  {escape(run)} did not run: {escape(reason)}", soft_wrap=True)
    if paid := result.get("bill"):
        spent = f"{paid['flops'] / 1e12:.3g} TFLOPs, {paid['seconds'] / 60:.3g} minutes"
        place = escape(f"{result.get('device', '?')}, {result.get('date', '?')}")
        console.print(f"  The runs of {place}: {spent}.", soft_wrap=True)
    return counts


def _number(mean: float, spread: float | None) -> str:
    """Return a mean with its standard deviation."""
    digits = 2 if abs(mean) >= 10 else 3
    return f"{mean:.{digits}f}" if spread is None else f"{mean:.{digits}f} ± {spread:.{digits}f}"
