"""The terminal for several seeds at once: one bar, then a line a seed and their mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from frostline.report.compare import Group, cell
from frostline.report.terminal import TerminalReport

COLUMNS = ("accuracy", "forgetting", "backward_transfer", "learning_accuracy", "flops", "seconds")


class SeedsReport(TerminalReport):
    """Watch the first of the runs, which all advance together, and sum them all up at the end."""

    def __init__(self, strategy: str, seeds: Sequence[int]):
        super().__init__(strategy)
        self.strategy = f"{strategy}, seeds {', '.join(map(str, seeds))} at once,"

    def finished(self, content: dict[str, Any], folder: Path) -> None:
        """Wait for the others."""
        self.close()

    def summary(self, contents: list[dict[str, Any]], folder: Path) -> None:
        """Print a line a seed, their mean, and where everything is."""
        self.console.print(seeds_table(contents))
        self.console.print(f"A run folder for each seed: [bold]{folder}[/]", soft_wrap=True)


def seeds_table(contents: list[dict[str, Any]]) -> Table:
    """Return the metrics and costs of each run, and their mean with its confidence interval."""
    everyone = Group("", contents)
    shown = [column for column in COLUMNS if everyone.interval(column)]
    title = "Each seed, then mean ± 95 % confidence interval; costs are those of learning, shared among the seeds"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("seed", justify="right")
    for column in shown:
        table.add_column({"flops": "FLOPs"}.get(column, column.replace("_", " ")), justify="right", no_wrap=True)
    for content in contents:
        table.add_row(str(content["seed"]), *(cell(c, Group("", [content]).interval(c)) for c in shown))
    table.add_section()
    table.add_row("all", *(cell(c, everyone.interval(c)) for c in shown), style="bold")
    return table
