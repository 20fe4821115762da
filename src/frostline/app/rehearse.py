"""`frostline run --dry-run`: what a run will cost, before it is paid."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from frostline.app.building import build_run
from frostline.app.config import DictConfig, check
from frostline.app.job import get_ready, with_seed
from frostline.core.peaks import peak
from frostline.costs import totals
from frostline.loop.rehearsal import DONE, Rehearsal
from frostline.loop.run import Run
from frostline.loop.training import run_stream
from frostline.report.console import wide_console
from frostline.report.tables import bill_table, si, size


def rehearse(cfg: DictConfig) -> Run:
    """Go through a run's tasks, the first steps of each kind taken and the others counted; print the bill, keep nothing."""
    check(cfg)
    if cfg.trainer.seeds is not None:
        cfg = with_seed(cfg, cfg.trainer.seeds[0])
    device = get_ready(cfg)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as cleanup:
        run, _ = build_run(cfg, Path(folder), device, [], cleanup, among=1)
        run.rehearsal, run.save, run.reference_steps, run.observers = Rehearsal(), None, 0, ()
        run_stream(run)
    _show(run, wide_console(), money=cfg.cost.device is None)  # the hour of a price book is that device's
    if said := elsewhere(cfg, run):
        wide_console().print(said, soft_wrap=True)
    return run


def _time(seconds: float) -> str:
    """Return a time as one would say it."""
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.3g} seconds"


def elsewhere(cfg: DictConfig, run: Run) -> str:
    """Return what the run would take on the device of the price book, an estimate; nothing where it names none."""
    cost, precision = cfg.cost, run.settings.precision
    most = peak(cost.device, precision) if cost.device else None
    if most is None:
        return ""
    learning = totals([row for row in run.meter.rows if row.phase not in ("setup", "evaluate")])
    found = []
    for sums, what in ((learning, "learning"), (totals(run.meter.rows), "all of the run")):
        seconds = (sums["flops"] or 0) / (cost.utilisation * most)
        found.append(f"{what} {_time(seconds)} and {seconds / 3600 * cost.price_per_hour:.2g} USD")
    return (
        f"An estimate for {cost.device}, if it reaches {cost.utilisation:.0%} of its {si(most)}FLOP/s in {precision} "
        f"(cost.utilisation): {', '.join(found)}. Where steps are small it reaches less."
    )


def _show(run: Run, console: Console, money: bool) -> None:
    rows = run.meter.rows
    whole = totals(rows)
    console.print(bill_table({"ledger": [vars(row) for row in rows], "totals": whole}, console.width))
    learning = totals([row for row in rows if row.phase not in ("setup", "evaluate")])
    of_each = [f"{si(sums['flops'] or 0)}FLOPs and {_time(sums['seconds'] or 0)}" for sums in (learning, whole)]
    price = f", {whole['usd']:.2g} USD" if whole["usd"] and money else ""
    memory = size(int(whole["peak_memory_bytes"] or 0))
    console.print(
        f"Learning will take {of_each[0]}, all of the run {of_each[1]}{price}, and {memory} at most.", soft_wrap=True
    )
    console.print(
        f"Seconds and memory by {DONE} steps and evaluations of each kind on this machine; the others were only counted, so a "
        "selector or a memory that decides by what was learned may decide otherwise. Nothing was kept.",
        soft_wrap=True,
    )
    if run.meter.uncounted:
        console.print(f"Not counted: {', '.join(sorted(run.meter.uncounted))}.", soft_wrap=True)
