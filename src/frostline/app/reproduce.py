"""`frostline reproduce`: run a paper's protocol, as far as it is not done yet, and hold the outcome against its figures."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from frostline.app.config import key_of, papers_dir
from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.files import atomic_write
from frostline.loop.interrupts import STOP, Ended
from frostline.records import results
from frostline.report.console import wide_console
from frostline.report.reproductions import (
    NOT_RUN,
    PROTOCOL,
    RESULT,
    Outcome,
    Paper,
    bill,
    measured,
    read_paper,
    read_result,
    show,
)

ARGUMENTS = "arguments.json"
NO_FIGURE = (  # change no figure: where it runs, what it costs there, where the same files are
    "trainer.device", "trainer.threads", "cost", "tracking", "stream.workers", "stream.data_root", "stream.path",
    "stream.groups", "stream.token_folder", "model.checkpoint", "model.path", "model.weights",
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """One call of `frostline run`: a run of the protocol with one seed, or with all of them at once."""

    run: str
    paper: Path
    folder: Path
    seeds: tuple[int, ...]
    arguments: tuple[str, ...]

    def environment(self) -> dict[str, str]:
        """Return this process's own, with the paper's folder among those that Python imports from: it may have a net there."""
        places = [str(self.paper.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
        return os.environ | {"PYTHONPATH": os.pathsep.join(places)}

    def protocol(self) -> str:
        """Return the settings that decide figures, and no paths of this machine."""
        own = [a for a in self.arguments if not key_of(a).startswith(NO_FIGURE)]
        return json.dumps([a for a in own if a != "--config-dir" and not Path(a).is_absolute()])

    def check(self) -> None:
        """Raise UsageError where the folder has runs of other settings: they are neither gone on with nor counted."""
        note = self.folder / ARGUMENTS
        if note.is_file() and note.read_text("utf-8") != self.protocol():
            raise UsageError(
                f"{self.folder} was begun with other settings. Expected --to another folder, or delete it."
            )

    def complete(self) -> bool:
        """Tell whether all of it is done."""
        return all(results.is_complete(folder) for folder in self.folders().values())

    def folders(self) -> dict[int, Path]:
        """Return where each seed's result is."""
        return {seed: self.folder / f"seed_{seed}" if len(self.seeds) > 1 else self.folder for seed in self.seeds}


def show_papers() -> None:
    """Print every paper's figures beside those that were measured, and how many agree."""
    console, total = wide_console(), dict[str, int]()
    for folder in sorted(path.parent for path in papers_dir().glob(f"*/{PROTOCOL}")):
        counts = show(folder.name, read_paper(folder), read_result(folder), console)
        total = {key: total.get(key, 0) + count for key, count in counts.items()}
    console.print(", ".join(f"{count} {key}" for key, count in total.items()) + ".")
    console.print("Run one: frostline reproduce NAME [--seeds N] [-j N]; it goes on where it was stopped.")


def reproduce(
    name: str,
    settings: Sequence[str] = (),
    *,
    seeds: int | None = None,
    jobs: int = 1,
    out: Path | None = None,
    only: Sequence[str] = (),
    record: bool = False,
) -> None:
    """Run a paper's protocol as far as it is not done, and print the verdicts. name: a paper, or a folder with one."""
    folder = _folder_of(name)
    paper, console = read_paper(folder), wide_console()
    in_range("--seeds", seeds, 1)
    in_range("-j", jobs, 1)
    for run in only:
        one_of("--only", run, tuple(paper.runs))
    changed = [s for s in settings if not key_of(s).startswith(NO_FIGURE)]
    if record and changed:
        raise UsageError(f"--record keeps figures of the protocol as it is; {changed[0]} changes it.")
    where = out or Path("outputs") / "reproduce" / folder.name
    todo = _works(paper, folder, where, settings, seeds, jobs)
    chosen = [work for work in todo if not only or work.run in only]
    for work in todo:
        work.check()
    try:
        with STOP.listening():
            refused = _carry_out([work for work in chosen if not work.complete()], jobs, console)
    except Ended as end:
        console.print("Interrupted; the same command goes on.")
        raise SystemExit(128 + end.signum) from None
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for work in todo:
        for seed, place in work.folders().items():
            if results.is_complete(place):
                runs.setdefault(work.run, {})[seed] = results.read(place)
    result = {
        "figures": {
            key: asdict(Outcome.of(values)) for key, claim in paper.claims.items() if (values := measured(claim, runs))
        },
        "refused": refused,
        "bill": bill(runs),
        **_environment(runs),
        "date": datetime.now(UTC).date().isoformat(),
    }
    _write(where, result)
    if record:  # what this machine has not run stays as it was
        _write(folder, result | {"figures": read_result(folder).get("figures", {}) | result["figures"]})
    counts = show(folder.name, paper, result, console)
    if changed:
        console.print(f"  With {escape(' '.join(changed))}, which is not the protocol.", soft_wrap=True)
    shown = escape(shlex.quote(str(where)))
    console.print(f"Runs: {shown} (frostline compare {shown} --html)", soft_wrap=True)
    if refused and counts[NOT_RUN]:
        raise UsageError(f"{len(refused)} of {len(paper.runs)} runs did not end; the same command goes on with them.")


def _write(folder: Path, result: dict[str, Any]) -> None:
    with atomic_write(folder / RESULT) as file:
        file.write(json.dumps(result, indent=1) + "\n")


def _folder_of(name: str) -> Path:
    if (Path(name) / PROTOCOL).is_file():
        return Path(name)
    known = tuple(sorted(path.parent.name for path in papers_dir().glob(f"*/{PROTOCOL}")))
    one_of("frostline reproduce", name, known)
    return papers_dir() / name


def _works(paper: Paper, folder: Path, out: Path, settings: Sequence[str], seeds: int | None, jobs: int) -> list[Work]:
    """Return all calls that the protocol takes."""
    count = seeds or (len(paper.vary) or paper.seeds)
    if paper.vary and count > len(paper.vary):
        raise UsageError(
            f"--seeds {count}: the protocol has {len(paper.vary)} repetitions. The nearest valid value is that."
        )
    config = ["--config-dir", str((folder / "conf").resolve())] if (folder / "conf").is_dir() else []
    threads = f"trainer.threads={max(1, (os.cpu_count() or 1) // jobs)}"
    fixed = [*config, "tracking=none", "figures=[]", "cost.reference_steps=0", threads, *paper.settings]
    works = []
    for run, own in paper.runs.items():
        if paper.at_once and not paper.vary and count > 1:
            all_seeds = f"trainer.seeds=[{','.join(map(str, range(count)))}]"
            place = out / run / f"seeds_{count}"
            works.append(Work(run, folder, place, tuple(range(count)), (*fixed, *own, all_seeds, *settings)))
            continue
        for seed in range(count):
            varied = paper.vary[seed] if paper.vary else ()
            place = out / run / f"seed_{seed}"
            works.append(Work(run, folder, place, (seed,), (*fixed, *own, f"seed={seed}", *varied, *settings)))
    return works


def _carry_out(works: Sequence[Work], jobs: int, console: Console) -> dict[str, str]:
    """Do the work, `jobs` at a time; return why runs did not end, by name."""
    refused: dict[str, str] = {}  # what one seed is refused for, the others would be too
    children: set[subprocess.Popen] = set()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar, ThreadPoolExecutor(jobs) as pool:
        shown = bar.add_task("runs", total=len(works))
        futures = {
            pool.submit(lambda work: refused.get(work.run) or _run(work, children), work): work for work in works
        }
        try:
            for future in as_completed(futures):
                work, said = futures[future], future.result()
                bar.advance(shown)
                if said and work.run in refused:
                    continue
                if said:
                    refused[work.run] = said
                seeds = f"seed {work.seeds[0]}" if len(work.seeds) == 1 else f"{len(work.seeds)} seeds"
                bar.console.print(escape(f"{work.run}, {seeds}: {said or 'complete'}"), soft_wrap=True)
        finally:  # after an interrupt: no run is left behind that nobody waits for, each writes a checkpoint and ends
            pool.shutdown(wait=False, cancel_futures=True)
            for child in list(children):
                child.terminate()
    return refused


def _run(work: Work, children: set[subprocess.Popen]) -> str:
    """Begin the work or go on with it; return what it said where it did not end well."""
    arguments = list(work.arguments)
    if any(work.folder.glob("checkpoint.pt")) or any(work.folder.glob("seed_*/checkpoint.pt")):
        named = [a for a in arguments if "_target_=" in a]  # a net of the paper's own is named again
        arguments = [f"resume={work.folder}", *named]
    else:
        work.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(work.folder / ARGUMENTS) as file:
            file.write(work.protocol())
        arguments.append(f"hydra.run.dir={work.folder}")
    with (work.folder.parent / f"{work.folder.name}.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "frostline", "run", *arguments]
        # in a group of its own: a terminal's Ctrl-C comes once, from us; a second signal would not wait for a checkpoint
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=work.environment(), process_group=0)
        children.add(child)
        code = child.wait()
        children.discard(child)
    if code == 0:
        return ""
    said = Path(log.name).read_text("utf-8", errors="replace").strip().splitlines()
    return said[-1] if said else f"exit code {code}"


def _environment(runs: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Return where the first of the runs was made."""
    first = next((run for seeds in runs.values() for run in seeds.values()), {})
    known = first.get("environment", {})
    return {
        "device": known.get("device_name", "?"), "frostline": known.get("versions", {}).get("frostline"),
        "torch": known.get("versions", {}).get("torch"), "git_commit": known.get("git_commit"),
    }  # fmt: skip
