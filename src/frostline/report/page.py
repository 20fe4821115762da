"""One page with everything about many runs: figures that answer the pointer, the table, each run's command."""

import base64
import gzip
import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from frostline.core import metrics
from frostline.core.files import atomic_write
from frostline.report.columns import COLUMNS, COSTS
from frostline.report.figures import cumulative_costs
from frostline.report.groups import Group, selector_setting
from frostline.report.statistics import Summary

PARTS = Path(__file__).parent / "page_parts"
OVER_TIME = ("flops", "seconds")
DIGITS = 5


def write_page(groups: Sequence[Group], left_out: Sequence[tuple[str, str]], path: Path) -> None:
    """Write the page of these groups, which needs no network. left_out: folders that are not in it, and why."""
    html, style, script = ((PARTS / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js"))
    content = {"made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", **page_data(groups), "left_out": list(left_out)}
    for mark, text in (
        ("/*STYLE*/", style),
        ("/*SCRIPT*/", script),
        ("PLOTLY", base64.b64encode(gzip.compress(_plotly().encode(), 6, mtime=0)).decode()),
        ("DATA", _for_script(content)),
    ):
        html = html.replace(f"@{mark}@", text, 1)
    with atomic_write(path) as f:
        f.write(html)


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _for_script(content: Any) -> str:
    """Return JSON that cannot end the script element that it stands in."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def page_data(groups: Sequence[Group]) -> dict[str, Any]:
    """Return what the page shows, as plain values: axes, streams, a record a group."""
    streams = list(dict.fromkeys(group.stream for group in groups))
    records = [_record(group, streams.index(group.stream)) for group in groups]
    known = [key for key in COLUMNS if any(key in record["axes"] for record in records)]
    idle = [key for key in ("usd", "stored_bytes") if not any(r["axes"].get(key, [0])[0] for r in records)]
    known = [key for key in known if key not in idle]  # without a price, or with nothing kept, they say nothing
    return {
        "axes": {key: dict(zip(("label", "unit", "less"), COLUMNS[key], strict=True)) for key in known},
        "costs": [key for key in COSTS if key in known],
        "streams": [_stream(name, next(g for g in groups if g.stream == name)) for name in streams],
        "groups": records,
    }


def _stream(name: str, group: Group) -> dict[str, Any]:
    described = group.runs[0]["stream"]
    return {"name": name, "scenario": described.get("scenario", ""), "tasks": described.get("tasks", [])}


def _record(group: Group, stream: int) -> dict[str, Any]:
    first = min(group.runs, key=lambda run: run["seed"])
    R = np.stack([metrics.matrix(run["accuracy"]) for run in group.runs])
    kind, setting = selector_setting(first["config"])
    return {
        "label": group.label,
        "method": group.method,
        "stream": stream,
        "strategy": group.strategy,
        "selector": kind,
        "setting": setting,
        "seeds": [run["seed"] for run in group.runs],
        "axes": {key: _spread(found) for key in COLUMNS if (found := group.summary(key))},
        "matrix": _numbers(R.mean(0)),
        "within": _within(first),
        "over_time": {
            key: _numbers(np.mean([cumulative_costs(run, key) for run in group.runs], axis=0)) for key in OVER_TIME
        },
        "bill": _bill(group),
        "retrained": [{k: _number(v) for k, v in shares.items()} for shares in first.get("retrained", [])],
        "command": _command(first),
        "folders": [run["folder"] for run in group.runs if run.get("folder")],
        "config": yaml.safe_dump(first["config"], sort_keys=False, default_flow_style=None, width=100),
    }


def _spread(found: Summary) -> list[float | None]:
    """Return mean, the ends of Student's and of the bootstrap's interval, median and interquartile mean."""
    return [_number(v) for v in (found.mean, *found.t, *found.bca, found.median, found.iqm)]


def _bill(group: Group) -> dict[str, dict[str, list[float | None]]]:
    """Return operations and seconds of each phase, a value a task, the mean over seeds; what is of no task is left out."""
    count, found = len(group.runs[0]["stream"]["tasks"]), {}
    for column in OVER_TIME:
        phases: dict[str, np.ndarray] = {}
        for run in group.runs:
            for row in run["ledger"]:
                if row["task"] is not None and row[column]:
                    phases.setdefault(row["phase"], np.zeros(count))[row["task"]] += row[column] / len(group.runs)
        found[column] = {phase: _numbers(values) for phase, values in phases.items()}
    return found


def _within(run: dict[str, Any]) -> list[list[float | None]]:
    """Return the rows of the looks within tasks of the first seed, at most 400 of them."""
    rows = run.get("within") or []
    return [[_number(v) for v in row] for row in rows[:: max(1, len(rows) // 400)]]


def _command(run: dict[str, Any]) -> str:
    """Return a command that makes the run again, from what Hydra noted beside it; empty where it was made from Python."""
    try:
        noted = yaml.safe_load((Path(run["folder"]) / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
    except (KeyError, OSError, ValueError, yaml.YAMLError):
        return ""
    return f"frostline run {shlex.join(map(str, noted))}" if isinstance(noted, list) else ""


def _numbers(values: np.ndarray) -> Any:
    return _number(values) if np.ndim(values) == 0 else [_numbers(value) for value in values]


def _number(value: Any) -> float | None:
    """Return the number in as many digits as a figure shows; None for none."""
    if value is None or not np.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")
