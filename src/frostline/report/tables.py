"""What a run's end prints: the accuracy matrix, the metrics, the bill, and numbers as people read them."""

import math
from collections.abc import Callable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

LONG_BILL = 24  # rows; a longer bill is summed over tasks, the ledger file has every row


MOST_TASKS = 12  # columns that a terminal has room for


def accuracy_table(content: dict[str, Any]) -> Table:
    """Return the accuracy matrix as a table."""
    return _matrix("Test accuracy after each task", content, _cells(content["accuracy"], ".3f"))


def perplexity_tables(content: dict[str, Any]) -> list[Table]:
    """Return the losses as perplexities and, where known, bits a byte, where every token has a target; else nothing."""
    if content["stream"].get("targets", 1) == 1 or content["stream"].get("unit") != "nats":
        return []
    bits = content.get("bits_per_byte") or {"tasks": None, "held_out": {}}
    what = "Perplexity" if bits["tasks"] is None else "Perplexity / bits a byte"
    tables = [_matrix(f"{what} after each task", content, _perplexities(content["loss"], bits["tasks"]))]
    if names := [name for name, suite in content["held_out"].items() if any(v is not None for v in suite["loss"])]:
        rows = [list(row) for row in zip(*(content["held_out"][name]["loss"] for name in names), strict=True)]
        own = [bits["held_out"].get(name) for name in names]
        own = None if None in own else [list(row) for row in zip(*own, strict=True)]
        table = Table(title=f"{what} on what is held out", box=SIMPLE_HEAD)
        for head in ("after", *map(escape, names)):
            table.add_column(head, justify="left" if head == "after" else "right")
        for name, row in zip(("untrained", *content["stream"]["tasks"]), _perplexities(rows, own), strict=True):
            table.add_row(escape(name), *row)
        tables.append(table)
    return tables


def answer_tables(content: dict[str, Any]) -> list[Table]:
    """Return how many answers to test prompts were right to the letter and how many words they share; else nothing."""
    rows = content.get("answers") or []
    if not rows:
        return []
    table = Table(title="Answers: exact / ROUGE-L", box=SIMPLE_HEAD, caption="all are in answers.jsonl")
    of = list(dict.fromkeys(row["of"] for row in rows))
    for head in ("after", *map(escape, of)):
        table.add_column(head, justify="left" if head == "after" else "right")
    for after in dict.fromkeys(row["after"] for row in rows):
        cells = []
        for name in of:
            own = next((row for row in rows if row["of"] == name and row["after"] == after), None)
            cells.append("" if own is None else f"{own['exact']:.2f} / {own['rouge_l']:.2f}")
        table.add_row("untrained" if after is None else escape(content["stream"]["tasks"][after]), *cells)
    return [table]


def harness_tables(content: dict[str, Any]) -> list[Table]:
    """Return the scores of lm-evaluation-harness's tasks, each by its first measure; else nothing."""
    rows = content.get("harness") or []
    if not rows:
        return []
    first = {row["of"]: next((key for key in row if key not in ("after", "of")), "") for row in rows}
    table = Table(title="lm-evaluation-harness", box=SIMPLE_HEAD, caption="every measure is in result.json")
    for head in ("after", *(escape(f"{name}, {key}") for name, key in first.items())):
        table.add_column(head, justify="left" if head == "after" else "right")
    for after in dict.fromkeys(row["after"] for row in rows):
        own = {row["of"]: row.get(first[row["of"]]) for row in rows if row["after"] == after}
        cells = ["" if own.get(name) is None else f"{own[name]:.4g}" for name in first]
        table.add_row("untrained" if after is None else escape(content["stream"]["tasks"][after]), *cells)
    return [table]


def _perplexities(losses: list[list[float | None]], bits: list[list[float | None]] | None) -> list[list[str]]:
    cells = _cells([[None if v is None else math.exp(min(v, 700.0)) for v in row] for row in losses], ".4g")
    if bits is None:
        return cells
    return [
        [cell and f"{cell} / {own:.3f}" if own is not None else cell for cell, own in zip(row, found, strict=True)]
        for row, found in zip(cells, bits, strict=True)
    ]


def _cells(rows: list[list[float | None]], form: str) -> list[list[str]]:
    return [["" if value is None else f"{value:{form}}" for value in row] for row in rows]


def _matrix(title: str, content: dict[str, Any], rows: list[list[str]]) -> Table:
    tasks = content["stream"]["tasks"]
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("after \\ on")
    shown = [i for i in range(len(tasks)) if i % -(-len(tasks) // MOST_TASKS) == 0 or i == len(tasks) - 1]
    if len(shown) < len(tasks):
        table.caption = f"every {-(-len(tasks) // MOST_TASKS)}th task and the last; all are in accuracy.csv"
    for j in shown:
        table.add_column(escape(tasks[j]), justify="right")
    for i, row in enumerate(rows):
        if i and i - 1 not in shown:
            continue
        cells = [f"[bold]{row[j]}[/]" if j == i - 1 and row[j] else row[j] for j in shown]
        table.add_row("untrained" if i == 0 else escape(tasks[i - 1]), *cells)
    return table


def metrics_table(content: dict[str, Any]) -> Table:
    """Return the metrics as a table."""
    table = Table(title="Metrics", box=SIMPLE_HEAD, show_header=False)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in content["metrics"].items():
        if value is not None:
            table.add_row(name.replace("_", " "), f"{value:.4f}")
    return table


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "steps": lambda r: _count(r["steps"]),
    "samples": lambda r: si(r["samples"] or None),
    "FLOPs": lambda r: si(r["flops"] or None),
    "seconds": lambda r: f"{r['seconds']:.2f}",
    "memory": lambda r: size(r["peak_memory_bytes"]),
    "stored": lambda r: size(r["stored_bytes"]),
    "trained": lambda r: _span(r["trainable_parameters"]),
    "energy": lambda r: "" if r["energy_joules"] is None else f"{si(r['energy_joules'])} J",
    "USD": lambda r: f"{r['usd']:.3g}" if r["usd"] else "",
}
LEAST = ("steps", "memory", "samples")  # what a narrow terminal can do without, in this order


def bill_table(content: dict[str, Any], width: int = 100) -> Table:
    """Return the ledger as a table, one row a phase of a task, or a phase where that would be long."""
    rows, summed = content["ledger"], len(content["ledger"]) > LONG_BILL
    if summed:
        rows = [_sum([r for r in rows if r["phase"] == p], p) for p in dict.fromkeys(r["phase"] for r in rows)]
    rows = [r for r in rows if r["flops"] or r["seconds"] >= 0.005]  # what took nothing is in the ledger file only
    heads = [head for head, cell in COLUMNS.items() if any(cell(r) for r in rows)]
    for head in LEAST:
        if 20 + 10 * len(heads) > width:
            heads.remove(head)
    note = " (summed over tasks; every row is in ledger.csv)" if summed else ""
    table = Table(title=f"The bill{note}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("task", "phase", *heads):
        table.add_column(head, justify="left" if head in ("task", "phase") else "right", no_wrap=True)
    for r in rows:
        task = "all" if summed else "-" if r["task"] is None else str(r["task"])
        table.add_row(task, r["phase"], *(COLUMNS[head](r) for head in heads))
    table.add_section()
    whole = content["totals"] | {"trainable_parameters": 0}  # the largest of all is that of a warm-up, often
    table.add_row("all", "total", *(COLUMNS[head](whole) for head in heads), style="bold")
    return table


def against_full_lines(content: dict[str, Any]) -> list[str]:
    """Return what full fine-tuning of the same batches would have cost, in words."""
    full = content["full_finetuning"]
    if not full["flops"]:
        return []
    seconds = ""
    if full["seconds"]:
        seconds = f" and {full['seconds']:.1f} s"
    lines = [
        f"Full fine-tuning of the same batches: {si(full['flops'])} FLOPs{seconds} (step-cost model; timed reference steps)."
    ]
    saving = f"This run's learning took {full['flops_ratio']:.2f} of those FLOPs"
    if full["seconds_ratio"]:
        saving += f" and {full['seconds_ratio']:.2f} of those seconds"
    if (share := content.get("utilisation")) is not None:
        lines.append(
            f"Learning reached {share:.1%} of the device's peak in {content['config']['trainer']['precision']}."
        )
    return [*lines, saving + "."]


def token_lines(content: dict[str, Any]) -> list[str]:
    """Return how many token positions were learned from, padding too, and how fast, where every token has a target."""
    if (targets := content["stream"].get("targets", 1)) == 1:
        return []
    rows = [row for row in content["ledger"] if row["phase"] == "train"]
    tokens, seconds = targets * sum(row["samples"] for row in rows), sum(row["seconds"] for row in rows)
    if not tokens or not seconds:
        return []
    return [f"Learned from {si(tokens)} token positions, {si(tokens / seconds)} a second."]


def saving_lines(content: dict[str, Any]) -> list[str]:
    """Return what partial training saved beside time: optimizer and gradient bytes; what was cached, what not counted."""
    lines = []
    if missing := content["uncounted_operators"]:
        lines.append(f"Without a formula, and so not among the FLOPs: {', '.join(missing)}. The seconds have them.")
    partly = [s for s in content["training_state"] if s["gradient_bytes"] < s["full_gradient_bytes"]]
    if partly:
        now, full = (max(s[f"{k}gradient_bytes"] + s[f"{k}optimizer_bytes"] for s in partly) for k in ("", "full_"))
        lines.append(
            f"Gradients and optimizer state: at most {size(now)} where not everything trained, instead of {size(full)}."
        )
    used = [note for note in content["prefix_cache"] if note["used"]]
    if used:
        stages = sorted({note["last_frozen"] for note in used})
        span = stages[0] if len(stages) == 1 else f"{stages[0]} to {stages[-1]}"
        largest, where = max(note["bytes"] for note in used), "a file" if used[-1]["where"] == "file" else "memory"
        lines.append(
            f"Prefix cache: {len(used)} task{'s' * (len(used) > 1)}, frozen through {span}, at most {size(largest)} in {where}."
        )
    elif partly and content["prefix_cache"]:
        lines.append(f"Prefix cache: not used, because {content['prefix_cache'][-1]['reason']}.")
    return lines


def _sum(rows: list[dict[str, Any]], phase: str) -> dict[str, Any]:
    total: dict[str, Any] = {"task": None, "phase": phase}
    for key in rows[0]:
        if key in ("task", "phase", "energy_source"):
            continue
        values = [r[key] for r in rows if r[key] is not None]
        if key == "trainable_parameters":
            total[key] = (min(values), max(values))
        else:
            total[key] = (max(values) if key.endswith("_bytes") else sum(values)) if values else None
    return total


def _span(value: int | tuple[int, int]) -> str:
    """Return how many parameters trained; from the fewest to the most where rows were summed."""
    least, most = value if isinstance(value, tuple) else (value, value)
    return si(most or None) if least == most else f"{si(least)} to {si(most)}"


def si(value: float | None) -> str:
    """Return a number with a metric prefix: 1234567 -> '1.23 M'."""
    if value is None:
        return ""
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g}"


def size(value: int | None) -> str:
    """Return bytes with a binary prefix; nothing for 0."""
    if not value:
        return ""
    for power, unit in ((30, "G"), (20, "M"), (10, "K")):
        if value >= 2**power:
            amount = value / 2**power
            return f"{amount:.0f} {unit}iB" if amount >= 999.5 else f"{amount:.3g} {unit}iB"
    return f"{value} B"


def _count(value: int | None) -> str:
    return f"{value:,}" if value else ""
