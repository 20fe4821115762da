"""The table of several seeds that were trained at once: a line each, and their mean."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from frostline.report.compare import cell
from frostline.report.groups import Group

COLUMNS = ("accuracy", "forgetting", "backward_transfer", "learning_accuracy", "flops", "seconds")


def seeds_table(contents: list[dict[str, Any]]) -> Table:
    """Return the metrics and costs of each run, and their mean with its confidence interval."""
    everyone = Group("", contents)
    shown = [column for column in COLUMNS if everyone.interval(column)]
    title = "Each seed, then mean ± 95 % confidence interval; seconds are each seed's share"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("seed", justify="right")
    for column in shown:
        table.add_column({"flops": "FLOPs"}.get(column, column.replace("_", " ")), justify="right", no_wrap=True)
    for content in contents:
        table.add_row(str(content["seed"]), *(cell(c, Group("", [content]).interval(c)) for c in shown))
    table.add_section()
    table.add_row("all", *(cell(c, everyone.interval(c)) for c in shown), style="bold")
    return table
