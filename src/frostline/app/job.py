"""One run from its configuration: build the parts, train, and leave the results in the run's folder."""

import copy
import errno
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from frostline.app.building import build_run, choose_device
from frostline.app.config import DictConfig, check
from frostline.app.targets import plain
from frostline.core.checks import UsageError
from frostline.core.files import owned
from frostline.loop.interrupts import STOP
from frostline.loop.precision import set_precision, slow_here
from frostline.loop.run import Diverged, Run
from frostline.loop.training import run_stream
from frostline.records import checkpoints, weights
from frostline.records.writer import ResultWriter
from frostline.report.console import program
from frostline.report.terminal import TerminalReport

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


def get_ready(cfg: DictConfig) -> torch.device:
    """Return the device to train on, its precision and the number of threads set as the configuration says."""
    device = choose_device(cfg.trainer.device)
    set_precision(cfg.trainer.precision, device)
    if slow_here(cfg.trainer.precision, device):
        print(
            "frostline: trainer.precision=bfloat16: this CPU has neither AMX nor AVX512-BF16, so a step takes several "
            "times as long as in float32."
        )
    if cfg.trainer.threads is not None:
        torch.set_num_threads(cfg.trainer.threads)
    return device


def _execute(jobs: Sequence[Job], whole: Path, alone: bool, forget: Path | None, brief: bool) -> list[dict[str, Any]]:
    first = jobs[0].cfg
    device = get_ready(first)
    if first.trainer.threads is None and alone and device.type == "cpu":
        _say_if_busy()
    with ExitStack() as cleanup:
        reporter = TerminalReport(
            " + ".join(first.strategy), [job.cfg.seed for job in jobs], whole=whole, bar=alone, brief=brief
        )
        built = []
        for number, job in enumerate(jobs):
            run, writer = build_run(job.cfg, job.folder, device, [] if number else [reporter], cleanup, among=len(jobs))
            if job.state is not None:
                _refuse_other_data(job, run)
                _load(run, job)
            if len(jobs) > 1:
                run.keep_draws()
            built.append((run, writer))
        if forget is not None:  # a resume must not take up an earlier run, with one seed or several
            for stale in (forget / checkpoints.NAME, *forget.glob("seed_*/checkpoint*.pt")):
                stale.unlink(missing_ok=True)
        try:
            _train([run for run, _ in built])
            contents = [_finish(run, writer, job) for (run, writer), job in zip(built, jobs, strict=True)]
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
        if len(jobs) > 1:
            reporter.summary(contents, jobs[0].folder.parent)
    return contents


def _train(runs: Sequence[Run]) -> None:
    """Learn what is left to learn: nothing, where a run was ended between its last checkpoint and its result."""
    if not all(run.finished for run in runs):
        run_stream(*runs)
        return
    for run in runs:
        for observer in run.observers:
            observer.started(run)


def _finish(run: Run, writer: ResultWriter, job: Job) -> dict[str, Any]:
    """Leave the weights, the result and the figures; return the content of result.json."""
    weights.save(run, job.folder, plain(job.cfg))
    content = writer.write(run, "complete")
    _draw(job, content)
    for observer in run.observers:
        observer.finished(content, job.folder)
    return content


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
