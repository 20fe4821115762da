"""The table of strategies, from their YAML files and docstrings: what it is printed from is what runs."""

import inspect
import re
from pathlib import Path
from typing import NamedTuple

import yaml
from hydra.utils import get_class

from frostline.app.config import conf_dir

PAPER = re.compile(r"arXiv (\d{4}\.\d{4,5})")
FAMILIES = (
    "baseline", "regularisation", "replay", "gradient projection", "heads", "closed form", "architecture",
    "prompts and adapters",
    "weight space", "plasticity",
)  # fmt: skip
OTHER = "other"  # of a file that names none


class Row(NamedTuple):
    """A strategy as the table has it."""

    name: str
    family: str
    what: str
    paper: str
    stores: str
    adds: str


def strategy_rows() -> list[Row]:
    """Return every strategy that can be chosen, by family and name."""
    rows = [_row(path) for path in (conf_dir() / "strategy").glob("*.yaml")]
    order = {family: place for place, family in enumerate(FAMILIES)}
    return sorted(rows, key=lambda row: (order.get(row.family, len(order)), row.family, row.name))


def _row(path: Path) -> Row:
    text = path.read_text()
    comments = [line[2:].strip() for line in text.splitlines() if line.startswith("# ") and "@package" not in line]
    family = next((c.removeprefix("family: ") for c in comments if c.startswith("family: ")), OTHER)
    what = " ".join(c for c in comments if not c.startswith("family: "))
    target = next(node["_target_"] for node in yaml.safe_load(text).values() if isinstance(node, dict))
    said = " ".join((inspect.getdoc(get_class(target)) or "").split())
    papers = dict.fromkeys(PAPER.findall(said))
    return Row(path.stem, family, what, ", ".join(papers), _sentence(said, "Stores"), _sentence(said, "Adds"))


def _sentence(said: str, verb: str) -> str:
    """Return what the sentence says that begins with the verb; nothing where the docstring has none."""
    found = re.search(rf"(?:^|[.:;)] ){verb} ([^.]*(?:\.\d[^.]*)*)\.", said)
    return "" if found is None else found[1]


def as_markdown() -> str:
    """Return docs/strategies.md's table."""
    lines = ["| strategy | what it does | paper | stores | adds to a step |", "| --- | --- | --- | --- | --- |"]
    family = ""
    for row in strategy_rows():
        if row.family != family:
            family = row.family
            lines.append(f"| **{family}** | | | | |")
        papers = ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in row.paper.split(", ") if number)
        lines.append(f"| `{row.name}` | {row.what} | {papers} | {row.stores or 'nothing'} | {row.adds or 'nothing'} |")
    return "\n".join(lines)
