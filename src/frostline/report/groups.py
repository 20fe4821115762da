"""Runs of one configuration as a group: what they have in common, what they are called, their means and intervals."""

import importlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from frostline.core import metrics
from frostline.loop.settings import TrainerConfig
from frostline.records import results
from frostline.report.outcome import outcome
from frostline.report.statistics import Summary, half_width, summarise

IGNORED = (
    "seed", "resume", "figures", "cost", "tracking", "overwrite", "checkpoint", "strategy", "trainer.device", "trainer.threads",
    "trainer.checkpoint_every_s", "trainer.output_drift", "trainer.answers", "trainer.harness_path",
    "stream.token_folder", "stream.token_groups",
)  # fmt: skip

REFERENCE = "joint"  # has all data at once: nothing that one could choose


@dataclass
class Group:
    """The runs of one configuration."""

    label: str
    runs: list[dict[str, Any]]
    repeated: int = 0  # runs left out, since another has the same seed
    data: int = 1  # different data that its runs learned from
    strategy: str = ""
    stream: str = ""  # which it learned, and how that differs from others of the same name
    method: str = ""  # the label without what is the stream's
    _summaries: dict[str, Summary] = field(default_factory=dict)  # the bootstrap takes its time

    def values(self, column: str) -> list[float]:
        """Return the column's value of each run that has one. Costs are those of learning, without evaluation."""
        return list(self.by_seed(column).values())

    def mean(self, column: str) -> float:
        """Return the mean over seeds; NaN where no run has a value."""
        values = self.values(column)
        return float(np.mean(values)) if values else np.nan

    def interval(self, column: str) -> tuple[float, float] | None:
        """Return the mean and the half-width of its 95 % confidence interval (Student's t; NaN for a single run)."""
        values = self.values(column)
        return (self.mean(column), half_width(values)) if values else None

    def summary(self, column: str) -> Summary | None:
        """Return what the column's values come to; None where no run has one."""
        if column not in self._summaries and (values := self.values(column)):
            self._summaries[column] = summarise(values)
        return self._summaries.get(column)

    def by_seed(self, column: str) -> dict[int, float]:
        """Return the column's value of each run that has one, by its seed."""
        found = {run["seed"]: value_of(run, column) for run in self.runs}
        return {seed: v for seed, v in sorted(found.items()) if v is not None}


def group_runs(runs: list[dict[str, Any]]) -> list[Group]:
    """Put runs that differ only in their seed together; a label names what differs between the groups."""
    keys = [json.dumps(_identity(run["config"]), sort_keys=True) for run in runs]
    grouped: dict[str, list[dict[str, Any]]] = {}
    for run, key in zip(runs, keys, strict=True):
        grouped.setdefault(key, []).append(run)
    flats = [_settings(members[0]["config"]) for members in grouped.values()]
    varying = _varying(flats)
    groups = []
    for flat, members in zip(flats, grouped.values(), strict=True):
        single = {run["seed"]: run for run in members}  # a run done again is not another sample
        known = {run["data"]["set"] for run in single.values() if run.get("data")}
        groups.append(
            Group(
                _label(flat, varying),
                list(single.values()),
                len(members) - len(single),
                max(1, len(known)),
                flat["strategy"],
                _label(
                    {**flat, "strategy": members[0]["stream"]["name"]}, [k for k in varying if k.startswith("stream.")]
                ),
            )
        )
    _tell_streams_apart(groups)
    _fill_intransigence(groups)
    return groups


def _tell_streams_apart(groups: list[Group]) -> None:
    """Number streams that are not the same though their names are; name methods by what differs within their stream."""
    known: dict[str, list[str]] = {}
    for group in groups:
        own = {k: v for k, v in _identity(group.runs[0]["config"]).items() if _of_stream(k)}
        same = known.setdefault(group.stream, [])
        if (key := json.dumps(own, sort_keys=True)) not in same:
            same.append(key)
        if number := same.index(key):
            group.stream += f" ({number + 1})"
    for own in by_stream(groups).values():
        flats = [_settings(group.runs[0]["config"]) for group in own]
        varying = [key for key in _varying(flats) if not _of_stream(key)]
        for group, flat in zip(own, flats, strict=True):
            group.method = _label(flat, varying)


def by_accuracy(groups: Sequence[Group]) -> list[Group]:
    """Return the groups, the most accurate first; those without an accuracy last."""
    return sorted(groups, key=lambda group: -np.nan_to_num(group.mean("accuracy"), nan=-np.inf))


def by_stream(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups of each stream; streams are never compared with each other, nor averaged over."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.stream, []).append(group)
    return found


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration without what makes no other experiment: seeds, devices, trackers."""
    flat = {k: v for k, v in _flatten(_completed(config)).items() if not k.endswith("seed")}
    return {k: v for k, v in flat.items() if k.startswith("strategy") or not k.startswith(IGNORED)}


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with the settings that an earlier version had not, as they come: they do what it did."""
    added = {"trainer": asdict(TrainerConfig()) | config.get("trainer", {})}
    for section in ("stream", "model", "selector", "optimizer", "schedule"):
        if isinstance(own := config.get(section), dict):
            added[section] = _defaults(own.get("_target_", "")) | own
    return config | added


@lru_cache
def _defaults(target: str) -> dict[str, Any]:
    """Return the defaults of what frostline builds from a configuration; nothing of what is another's."""
    if not target.startswith("frostline."):
        return {}
    module, _, name = target.rpartition(".")
    try:
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    except (ImportError, AttributeError, TypeError, ValueError):  # of another version
        return {}
    plain = (type(None), bool, int, float, str)
    return {p.name: p.default for p in parameters if isinstance(p.default, plain) and p.name not in ("device", "seed")}


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    return {k: v for key, inner in value.items() for k, v in _flatten(inner, f"{prefix}{key}.").items()}


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings under names that only the same kind of thing shares: `selector.LastK.k`, not `selector.k`."""
    flat = _identity(config)
    named = {"strategy": "+".join(config["strategy"])}
    for section in ("selector", "model", "optimizer", "stream"):
        kind, named[section] = config[section]["_target_"].rpartition(".")[2], _kind(config[section])
        for key in NAMING:
            flat.pop(f"{section}.{key}", None)
        for key in [k for k in flat if k.startswith(f"{section}.")]:
            flat[f"{section}.{kind}.{key.removeprefix(f'{section}.')}"] = flat.pop(key)
    return named | {k: v for k, v in flat.items() if not k.endswith("_target_")}


NAMING = (
    "dataset",
    "role",
)  # settings that say what a thing is: two roles are two selectors, not one with two settings


def _kind(node: dict[str, Any]) -> str:
    """Return what a part of a configuration is called: what a setting says that it is, or its class."""
    return next((str(node[key]) for key in NAMING if node.get(key)), node["_target_"].rpartition(".")[2])


def _varying(flats: list[dict[str, Any]]) -> list[str]:
    """Return the settings in which two groups that both have them differ."""
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [key for key in keys if len({json.dumps(flat[key]) for flat in flats if key in flat}) > 1]


def _of_stream(key: str) -> bool:
    return key.partition(".")[0] == "stream"


def _label(flat: dict[str, Any], varying: list[str]) -> str:
    parts = [flat["strategy"]]
    for key in varying:
        everything = (key, flat.get(key)) == ("selector", "Everything") and flat["strategy"] != "partial"
        unset = flat.get(key) is None or everything
        if not unset and key != "strategy":
            parts.append(str(flat[key]) if "." not in key else f"{key.rpartition('.')[2]}={flat[key]}")
    return " ".join(parts)


def _fill_intransigence(groups: list[Group]) -> None:
    """Use the cumulative run that differs in strategy and selector only as the reference of Chaudhry et al. 2018."""

    def key(run: dict[str, Any]) -> str:
        same = {k: v for k, v in _identity(run["config"]).items() if not k.startswith(("strategy", "selector"))}
        return json.dumps([same, run["seed"]], sort_keys=True)

    runs = [run for group in groups for run in group.runs]
    known = {
        key(r): np.diagonal(metrics.matrix(r["accuracy"])[1:])
        for r in runs
        if list(r["config"]["strategy"]) == ["cumulative"]
    }
    for run in runs:
        if key(run) in known:
            value = metrics.intransigence(metrics.matrix(run["accuracy"]), known[key(run)])
            run["metrics"]["intransigence"] = None if np.isnan(value) else float(value)


def value_of(run: dict[str, Any], column: str) -> float | None:
    """Return a run's value of a column; None where it has none. Costs are those of learning, without evaluation."""
    if column == "accuracy":
        return run["metrics"]["average_accuracy"]
    if column in run["metrics"]:
        return run["metrics"][column]
    if column == "learned":
        return outcome(run)["learned"]
    if column == "of_full":
        return outcome(run)["flops"]
    if column == "loss":
        last = [v for v in (run.get("loss") or [[]])[-1] if v is not None]
        return float(np.mean(last)) if last else None
    rows = [r for r in run["ledger"] if r["phase"] in results.TRAINING_PHASES]
    values = [r[column] for r in rows if r.get(column) is not None]
    if not values:
        return None
    return max(values) if column.endswith("_bytes") else sum(values)


def selector_setting(config: dict[str, Any]) -> tuple[str, str]:
    """Return the kind of a configuration's selector, and its settings in words."""
    own = {key: value for key, value in config["selector"].items() if key not in ("_target_", *NAMING)}
    return _kind(config["selector"]), ", ".join(f"{key}={value}" for key, value in own.items() if value is not None)
