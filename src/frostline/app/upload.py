"""`frostline upload`: send what W&B recorded offline, and a sweep's comparison beside its runs."""

import hashlib
import json
import netrc
import os
import platform
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape

from frostline.core.checks import UsageError
from frostline.core.files import atomic_write
from frostline.costs.meter import COLUMNS
from frostline.records import results
from frostline.report.compare import as_rows
from frostline.report.console import wide_console
from frostline.report.figures import save_figure
from frostline.report.finding import find_runs
from frostline.report.groups import by_stream, group_runs
from frostline.report.paper_figures import front, paper_figures

RECORDS = "wandb/offline-run-*/*.wandb"
NOTE = "comparison.sha256"  # of what the comparison was made that W&B has
REACH_S = 10.0


def upload(folders: Sequence[Path], project: str | None = None, entity: str | None = None) -> None:
    """Send every offline W&B run below `folders` that was not sent, with the comparison of each folder of several runs.

    What was sent is known from W&B's own marks: the same command sends nothing twice. UsageError where nothing is there, no
    key is known, or the server is out of reach.
    """
    console = wide_console()
    for folder in folders:
        if not folder.exists():
            raise UsageError(f"{folder}: there is no such folder. Expected the folder of a run or a sweep.")
        if any(folder.rglob(RECORDS)) and len(list(folder.rglob(results.NAME))) > 1:
            _compare(folder, project, entity, console)
    recorded = sorted({path.resolve() for folder in folders for path in folder.rglob(RECORDS)})
    waiting = [path for path in recorded if not path.with_name(f"{path.name}.synced").exists()]
    if not recorded:
        where = ", ".join(map(str, folders))
        raise UsageError(
            f"No W&B record below {where}: tracking=none writes none; with tracking=wandb each run has one."
        )
    if not waiting:
        console.print(f"All {len(recorded)} W&B records below were sent before.")
        return
    url = _server()
    given = [*(["--project", project] if project else []), *(["--entity", entity] if entity else [])]
    command = [sys.executable, "-m", "wandb", "sync", "--yes", *given, *(str(path.parent) for path in waiting)]
    code = subprocess.run(command, check=False).returncode
    left = [path for path in waiting if not path.with_name(f"{path.name}.synced").exists()]
    console.print(f"{len(waiting) - len(left)} of {len(waiting)} W&B records sent to {escape(url)}.")
    if code or left:
        raise UsageError(f"{len(left)} W&B records were not sent, as said above; the same command sends them.")


def _server() -> str:
    """Return the server's address, once it is known that it answers and that there is a key for it."""
    import wandb

    url = (os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url).rstrip("/")
    if not _key(url):
        raise UsageError(f"W&B: no key for {url}. Expected WANDB_API_KEY, or wandb login.")
    try:
        urllib.request.urlopen(url, timeout=REACH_S).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        raise UsageError(
            f"W&B: {url} is out of reach ({error}). The records stay where they are; the same command sends them later."
        ) from None
    return url


def _key(url: str) -> str | None:
    """Return the key that W&B would use, from the environment or from where `wandb login` put it."""
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    try:
        found = netrc.netrc(Path(os.environ.get("NETRC", "~/.netrc")).expanduser()).authenticators(
            urlsplit(url).hostname or ""
        )
    except (OSError, netrc.NetrcParseError):
        return None
    return found[2] if found else None


def _compare(folder: Path, project: str | None, entity: str | None, console: Console) -> None:
    """Record the comparison of a folder's runs as one more offline run of their group, unless it was for these runs."""
    import wandb

    runs = find_runs([folder], console)
    made_of = hashlib.sha256(json.dumps([[run["folder"], run["totals"]] for run in runs], sort_keys=True).encode())
    note = folder / "wandb" / NOTE
    if note.is_file() and note.read_text("utf-8") == made_of.hexdigest():
        return
    groups, known = group_runs(runs), next((run["config"]["tracking"] for run in runs), {})
    best = {id(group) for own in by_stream(groups).values() for group in front(own, "flops", "accuracy")}
    rows = [row | {"on_frontier": id(group) in best} for row, group in zip(as_rows(groups), groups, strict=True)]
    ledger: list[Any] = [
        [run["folder"], run["seed"], *(row.get(c) for c in COLUMNS)] for run in runs for row in run["ledger"]
    ]
    where = folder.resolve()
    values: dict[str, Any] = {
        "frontier": wandb.Table(columns=list(rows[0]), data=[list(map(_cell, row.values())) for row in rows]),
        "ledger": wandb.Table(columns=["run", "seed", *COLUMNS], data=ledger),
    }
    for name, figure in paper_figures(groups):
        save_figure(figure, folder / "wandb" / "figures" / name, ("png",))
        values[f"figures/{name}"] = wandb.Image(str(folder / "wandb" / "figures" / f"{name}.png"))
    with wandb.init(
        project=project or known.get("project") or "frostline",
        entity=entity or known.get("entity"),
        mode="offline",
        dir=str(folder),
        id=hashlib.sha1(f"{platform.node()}:{where}:comparison".encode()).hexdigest()[:12],
        resume="allow",
        name=f"{where.name}-comparison",
        group=known.get("group") or where.name,
        job_type="comparison",
        tags=["sweep", "comparison"],
        settings=wandb.Settings(silent=True, disable_git=True, x_disable_stats=True, console="off"),
    ) as run:
        run.log(values)
    with atomic_write(note) as file:
        file.write(made_of.hexdigest())


def _cell(value: Any) -> Any:
    """Return what a cell of a table may hold."""
    return value if isinstance(value, int | float | str | None) else str(value)
