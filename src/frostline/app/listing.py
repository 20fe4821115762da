"""What can be chosen, and what this machine has."""

import os

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from frostline.app.config import conf_dir
from frostline.report.console import wide_console

GROUPS = (
    "experiment",
    "stream",
    "model",
    "strategy",
    "selector",
    "optimizer",
    "schedule",
    "trainer",
    "cost",
    "tracking",
)


def show_options() -> None:
    """Print every option of every group with the first comment of its file."""
    console = wide_console()
    for group in GROUPS:
        table = Table(title=f"{group}=", title_justify="left", show_header=False, box=None, padding=(0, 2))
        for path in sorted((conf_dir() / group).glob("*.yaml")):
            comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
            said = [c for c in comments if not c.startswith(("@package", "family:"))]
            table.add_row(path.stem, escape(said[0]) if said else "")
        console.print(table)


def show_strategies(markdown: bool) -> None:
    """Print the table of strategies: what each does, its paper, what it stores and adds to a step."""
    from frostline.app.strategy_table import as_markdown, strategy_rows

    if markdown:
        print(as_markdown())
        return
    table = Table(title="strategy=", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("strategy", no_wrap=True)
    table.add_column("what it does", ratio=3)
    table.add_column("arXiv", width=10)
    table.add_column("stores", ratio=2)
    table.add_column("adds to a step", ratio=2)
    family = ""
    for row in strategy_rows():
        if row.family != family:
            family = row.family
            table.add_section()
            table.add_row(f"[bold]{escape(family)}[/]")
        table.add_row(*map(escape, (row.name, row.what, row.paper.replace(", ", " "), row.stores, row.adds)))
    wide_console().print(table)


def show_doctor(data_root: str | None) -> None:
    """Print versions, devices and which data sets can be loaded."""
    import torch

    from frostline.core.checks import UsageError
    from frostline.records.environment import environment
    from frostline.streams import DATASETS, load

    console = wide_console()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = environment(device)
    table = Table(title="This machine", show_header=False)
    for name, version in facts.pop("versions").items():
        table.add_row(name, version)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), str(value))
    console.print(table)
    root = data_root or os.environ.get("FROSTLINE_DATA", "data")
    found = Table(title=f"Data sets (data_root {root})")
    for column in ("data set", "train", "test", "shape"):
        found.add_column(column)
    for name in DATASETS:
        try:
            data = load(name, root)
            shape = "x".join(map(str, data.x_train.shape[1:]))
            found.add_row(name, f"{len(data.x_train):,}", f"{len(data.x_test):,}", shape)
        except UsageError as error:
            found.add_row(name, "damaged" if "could not be read" in str(error) else "not found", "", "")
    console.print(found)
