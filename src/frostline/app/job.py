"""One run from its configuration: build the parts, train, and leave the results in the run's folder."""

import copy
import errno
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from frostline.app.config import DictConfig, check, plain, trainer_config, without
from frostline.app.ready import check_parts
from frostline.core.checks import UsageError, one_of
from frostline.core.digests import data_digests
from frostline.core.files import owned
from frostline.core.rng import derive
from frostline.core.types import TaskStream
from frostline.costs import CostMeter, EnergyMeter, Prices
from frostline.loop.interrupts import STOP
from frostline.loop.precision import set_precision, slow_here
from frostline.loop.pricing import task_costs
from frostline.loop.run import Diverged, Observer, Run
from frostline.loop.training import run_stream
from frostline.records import checkpoints, weights
from frostline.records.curve import Curve
from frostline.records.tracking import tracker
from frostline.records.writer import ResultWriter
from frostline.report.console import program
from frostline.report.terminal import TerminalReport
from frostline.speed.fast import Fast
from frostline.speed.layouts import with_fused, with_kernels, with_layout
from frostline.strategies.base import Strategy
from frostline.strategies.chain import Chain
from frostline.streams.suites import suite_of

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class Job(NamedTuple):
    """One run to do: its configuration, its folder, and the checkpoint that it goes on from."""

    cfg: DictConfig
    folder: Path
    state: dict[str, Any] | None = None


def execute(cfg: DictConfig, folder: Path, *, sweep: Path | None = None, alone: bool = True) -> list[dict[str, Any]]:
    """Train as `cfg` says; return the content of each run's result.json: one, or one a seed of trainer.seeds.

    sweep: the folder of the sweep that this is a part of. alone: no other process writes to this terminal, so there may
    be a progress bar.
    """
    check(cfg)
    with owned(folder):
        return _execute_owned(cfg, folder, sweep or folder, alone, brief=sweep is not None)


def _execute_owned(cfg: DictConfig, folder: Path, whole: Path, alone: bool, brief: bool) -> list[dict[str, Any]]:
    jobs = [Job(cfg, folder)]
    if cfg.trainer.seeds is not None:
        jobs = [Job(with_seed(cfg, seed), folder / f"seed_{seed}") for seed in cfg.trainer.seeds]
        for shared in ("model", "optimizer", "trainer"):
            if any(plain(job.cfg)[shared] != plain(jobs[0].cfg)[shared] for job in jobs):
                raise UsageError(
                    f"{shared} differs from seed to seed, and trainer.seeds trains them with the same. "
                    "Expected separate runs: -m seed=0,1,..."
                )
    return run_jobs(jobs, whole, alone, forget=folder, brief=brief)


def with_seed(cfg: DictConfig, seed: int) -> DictConfig:
    """Return the configuration of an ordinary run with this seed, and with all that is interpolated from it."""
    own = copy.deepcopy(cfg)
    own.seed, own.trainer.seeds = seed, None
    return own


def run_jobs(
    jobs: Sequence[Job], whole: Path, alone: bool, *, forget: Path | None = None, brief: bool = False
) -> list[dict[str, Any]]:
    """Do the jobs, which differ in their seed, in one pass; return the content of each one's result.json.

    whole: the folder that a resume is given to go on with all of them. A seed that diverges stops alone: the others go on
    without it, from their last checkpoints. forget: the folder of a new start, where an earlier run's checkpoints go.
    brief: print no tables, since a sweep sums its runs up at its end.
    """
    diverged: list[str] = []
    while jobs:
        try:
            with ExitStack() as locks, STOP.listening():
                for job in jobs:
                    locks.enter_context(owned(job.folder))
                contents = _execute(jobs, whole, alone, forget, brief)
        except Diverged as error:
            folder = error.folder
            if len(jobs) == 1 and not diverged:
                raise
            assert folder is not None
            print(f"frostline: {folder.name}: {error}", file=sys.stderr)
            diverged.append(folder.name)
            forget = None
        else:
            if not diverged:
                return contents
            break
        jobs = [_again(job) for job in jobs if job.folder != folder]
    others = "The other seeds are complete." if jobs else "No other seed is left."
    raise UsageError(f"{', '.join(diverged)}: diverged, as said above. {others}")


def _again(job: Job) -> Job:
    saved = (job.folder / checkpoints.NAME).is_file()
    return job._replace(state=checkpoints.load(job.folder) if saved else None)


def _execute(jobs: Sequence[Job], whole: Path, alone: bool, forget: Path | None, brief: bool) -> list[dict[str, Any]]:
    first = jobs[0].cfg
    device = choose_device(first.trainer.device)
    set_precision(first.trainer.precision, device)
    if slow_here(first.trainer.precision, device):
        print(
            "frostline: trainer.precision=bfloat16: this CPU has neither AMX nor AVX512-BF16, so a step takes several "
            "times as long as in float32."
        )
    if first.trainer.threads is not None:
        torch.set_num_threads(first.trainer.threads)
    elif alone and device.type == "cpu":
        _say_if_busy()
    with ExitStack() as cleanup:
        reporter = TerminalReport(
            " + ".join(first.strategy), [job.cfg.seed for job in jobs], whole=whole, bar=alone, brief=brief
        )
        built = []
        for number, job in enumerate(jobs):
            run, writer = _build(job, device, [] if number else [reporter], cleanup, among=len(jobs))
            if job.state is not None:
                _refuse_other_data(job, run)
                _load(run, job)
            if len(jobs) > 1:
                run.keep_draws()
            built.append((run, writer))
        if forget is not None:  # a resume must not take up an earlier run, with one seed or several
            for stale in (forget / checkpoints.NAME, *forget.glob(f"seed_*/{checkpoints.NAME}")):
                stale.unlink(missing_ok=True)
        try:
            run_stream(*(run for run, _ in built))
        except BaseException as error:
            for run, writer in built:
                with suppress(OSError):  # a full disk is what may have ended it
                    writer.write(run, "failed", f"{type(error).__name__}: {error}")
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise UsageError(
                    f"{whole}: could not be written ({error.strerror}). The last checkpoint is whole; once there is room, go "
                    f"on with: {program()} {shlex.quote(f'resume={whole}')}"
                ) from error
            raise
        contents = []
        for (run, writer), job in zip(built, jobs, strict=True):
            weights.save(run, job.folder, plain(job.cfg))
            contents.append(writer.write(run, "complete"))
            _draw(job, contents[-1])
            for observer in run.observers:
                observer.finished(contents[-1], job.folder)
        if len(jobs) > 1:
            reporter.summary(contents, jobs[0].folder.parent)
    return contents


def _draw(job: Job, content: dict[str, Any]) -> None:
    """Draw the run's figures; what goes wrong there takes nothing else with it."""
    if not job.cfg.figures:
        return
    try:
        from frostline.report.figures import run_figures  # matplotlib: not before the work is done

        run_figures(job.folder, content, job.cfg.figures)
    except Exception as error:  # another backend, a missing font: matplotlib fails in many ways
        reason = (str(error).splitlines() or [""])[0]
        print(
            f"frostline: the figures could not be drawn ({type(error).__name__}: {reason}); all else is in {job.folder}."
        )


def _load(run: Run, job: Job) -> None:
    """Go back to where the checkpoint was taken; UsageError where it is one of another run."""
    assert job.state is not None
    try:
        run.load_state_dict(job.state)
    except UsageError:
        raise
    except Exception as error:  # a changed configuration shows in many ways
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(
            f"{job.folder / checkpoints.NAME} does not fit its configuration ({type(error).__name__}: {reason}): it was "
            "changed, or belongs to another run."
        ) from error


def _refuse_other_data(job: Job, run: Run) -> None:
    """Refuse to go on with data that are not those of the checkpoint, unless the user says so."""
    assert job.state is not None
    before = job.state["data"]
    changed = [name for name in ("train", "test") if run.data[name] != before[name]]
    if not changed:
        return
    what = " and the ".join({"train": "training data", "test": "test data"}[name] for name in changed)
    if not job.cfg.checkpoint.other_data:
        raise UsageError(
            f"resume={str(job.folder)!r}: the {what} of {run.stream.name} are not those that the run began with. "
            "Expected the same files; checkpoint.other_data=true goes on with what is there now."
        )
    print(f"frostline: the {what} are not those that the run began with; it goes on with what is there now.")


def _say_if_busy() -> None:
    """Say that other work keeps the processor busy: threads that wait for each other then make steps ten times as long."""
    import psutil

    busy = psutil.cpu_percent(0.1) / 100 * (os.cpu_count() or 1)  # of others: this process sleeps meanwhile
    if torch.get_num_threads() > 1 and busy > 0.5:
        print(
            f"frostline: other work keeps {busy:.1f} of {os.cpu_count()} cores busy. Threads that wait for each other can then "
            "take ten times as long as one; trainer.threads=1 waits for nobody."
        )


def choose_device(name: str) -> torch.device:
    """Return the device asked for, 'auto' being the first GPU if there is one; UsageError where it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    one_of("trainer.device", name.split(":")[0], ("auto", "cpu", "cuda", "mps"))
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"trainer.device={name!r} is not there: {reason}. The nearest valid value is 'cpu'."
        ) from error
    return device


def build(node: DictConfig, **extra: Any) -> Any:
    """Build what the section's _target_ names; what it refuses comes out as its own error, not as Hydra's."""
    try:
        return instantiate(node, **extra)
    except InstantiationException as error:
        if isinstance(error.__cause__, UsageError):
            raise error.__cause__ from None
        raise


def build_strategy(cfg: DictConfig) -> Strategy:
    """Return the strategy, several as a chain in the order in which they were named."""
    members = [build(node) for node in cfg.strategy.values()]
    return members[0] if len(members) == 1 else Chain(members)


def build_model(node: DictConfig, stream: TaskStream) -> torch.nn.Module:
    """Return the model, with the weights of `model.weights` where that names any."""
    given = node.get("weights")
    model = build(without(node, "weights"), shape=stream.shape, classes=stream.classes)
    if given is not None:
        print(f"frostline: {weights.load_into(model, given)}")
    return model


def build_stream(cfg: DictConfig, device: torch.device) -> TaskStream:
    """Return the stream with its held-out suites."""
    stream = build(cfg.stream, seed=cfg.seed, device=str(device))
    suites = []
    for node in cfg.held_out:
        other = build(without(node, "name"), seed=cfg.seed, device=str(device))
        suites.append(suite_of(node.name, other, stream))
    return replace(stream, suites=tuple(suites)) if suites else stream


def _build(
    job: Job, device: torch.device, reporters: list[Observer], cleanup: ExitStack, among: int
) -> tuple[Run, ResultWriter]:
    """Build every part. The small ones come first: a bad setting is found before data are read."""
    cfg, folder, config = job.cfg, job.folder, plain(job.cfg)
    folder.mkdir(parents=True, exist_ok=True)
    settings = trainer_config(cfg)
    strategy, selector, schedule = build_strategy(cfg), build(cfg.selector), build(cfg.schedule)
    prices = Prices(cfg.cost.price_per_hour, cfg.cost.electricity_price_per_kwh)
    energy = EnergyMeter(cfg.cost.country_iso_code) if cfg.cost.energy == "codecarbon" else None
    if energy is not None:
        cleanup.callback(energy.close)
    meter = CostMeter(device, prices, energy)
    with meter.phase("setup"):
        stream = build_stream(cfg, device)
        torch.manual_seed(derive(cfg.seed, "model"))
        model = build_model(cfg.model, stream).to(device)
        model = with_kernels(with_layout(model, settings.channels_last), settings.kernels, device)
        selector.prepare(model)
        torch.manual_seed(derive(cfg.seed, "training"))
    optimizer = with_fused(build(cfg.optimizer), settings.fused)
    stream = check_parts(model, stream, strategy, selector, settings, optimizer)
    writer = ResultWriter(folder, config)
    observers: list[Observer] = [
        *reporters,
        writer,
        Curve(folder),
        *tracker(cfg.tracking, folder, config, among),
    ]
    for observer in observers:
        cleanup.callback(observer.close)
    data = data_digests(stream)
    processor = torch.backends.cpu.get_cpu_capability()
    extra = {
        "config": config,
        "tasks": len(stream),
        "threads": torch.get_num_threads(),
        "processor": processor,
        "data": data,
    }
    run = Run(
        model, stream, strategy, selector, optimizer, meter, settings, Fast(settings), cfg.seed, schedule,
        cfg.cost.reference_steps, _saver(folder, cfg.checkpoint.delta, extra), observers, folder, data,
    )  # fmt: skip
    selector.check(model, task_costs(run, stream[0]))
    return run, writer


def _saver(folder: Path, delta: bool, extra: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    save = checkpoints.Saver(folder, delta)
    return lambda state: save({**state, **extra})
