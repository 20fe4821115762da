"""The Hydra entry behind run.py and `frostline run`; errors become one clear message."""

import gc
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from frostline.app.arguments import DRY_RUN, flags_first, for_dry_run, for_resume, quoted, refuse_empty
from frostline.app.config import DictConfig, OmegaConf, conf_dir, expand, key_of, register
from frostline.app.explain import explain
from frostline.app.placing import named, place, refuse_complete, refuse_flags, tidy
from frostline.core.checks import UsageError
from frostline.core.files import owned
from frostline.report.console import plainly, program

ONE_OF_A_KIND = ("stream", "model", "selector", "optimizer", "schedule", "trainer", "cost", "tracking")


def main(argv: Sequence[str] | None = None) -> None:
    """Compose the configuration from the command line and run the job; exit code 1 with a message where it is wrong."""
    plainly()
    given = sys.argv[1:] if argv is None else argv
    arguments = flags_first(given)
    wants_traceback, before = "HYDRA_FULL_ERROR" in os.environ, list(sys.argv)
    folder: Path | None = None
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands exceptions on, and they are explained below
    gc.disable()  # until all is imported
    try:
        if dry := DRY_RUN in arguments:
            folder = Path(tempfile.mkdtemp(), "dry_run")  # tidied away, its parent too
            folder.mkdir()
            arguments = for_dry_run(arguments, str(folder))
        refuse_flags(arguments)
        refuse_empty(arguments)
        arguments, again = for_resume(arguments)
        if not dry:
            arguments, folder = (arguments, None) if again else place(arguments)
        with _owning(arguments, resumes=again or any(key_of(a) == "resume" for a in arguments)):
            _run_hydra([quoted(argument) for argument in arguments], again, dry, wants_traceback)
    except KeyboardInterrupt:
        _stop("Interrupted. A run that had begun goes on with resume=FOLDER.", code=130)
    except FailedRun:
        _stop("Not every run of the sweep is complete, as said above.")
    except Exception as error:
        if _was_interrupted(error):
            _stop("Interrupted. A run that had begun goes on with resume=FOLDER.", code=130)
        message = explain(error)
        if message is None or wants_traceback:
            raise
        _stop(message)
    finally:
        gc.enable()
        tidy(folder)
        sys.argv = before
        if not wants_traceback:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _owning(arguments: list[str], *, resumes: bool) -> AbstractContextManager[None]:
    """Return what keeps a folder to this process, before Hydra writes into it; refuse one with a complete run."""
    folder = named(arguments)
    if folder is None:
        return nullcontext()
    if not resumes:
        refuse_complete(folder, arguments)
    return owned(folder)


def _was_interrupted(error: BaseException) -> bool:
    """Tell whether an error came of an interruption, which left something half done that then failed."""
    seen: list[BaseException] = [error]
    for one in seen:  # it grows meanwhile
        seen += [e for e in (one.__cause__, one.__context__) if e is not None and e not in seen]
    return any(isinstance(one, KeyboardInterrupt) for one in seen)


class FailedRun(UsageError):
    """A run of a sweep failed, which was said at once; the others go on, perhaps in other processes."""


def _run_hydra(arguments: list[str], again: bool, dry: bool, wants_traceback: bool) -> None:
    """Hand the job to Hydra, which calls it for each run; launchers other than its own do so in other processes.

    again: these are the runs of a sweep that goes on. dry: say what the run will cost, and keep nothing.
    """
    import hydra

    here = os.getpid()

    def job(cfg: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        context = HydraConfig.get()
        launcher = context.launcher._target_ if context.mode == RunMode.MULTIRUN else None
        if os.getpid() != here and str(launcher).endswith(".JoblibLauncher"):  # before the seconds that importing takes
            _end_with(here)
        expand(cfg)
        _import_trainer()
        from frostline.app.job import execute
        from frostline.app.rehearse import rehearse
        from frostline.app.resuming import resume

        overrides: Any = OmegaConf.to_container(context.overrides.task, resolve=False)  # references as they were typed
        folder = Path(context.runtime.output_dir)
        sweep = Path(context.sweep.dir).absolute() if launcher else None
        alone = launcher is None or launcher.endswith(".BasicLauncher")
        _refuse_merged(context, overrides)
        try:
            if dry:
                rehearse(cfg)
            elif cfg.resume is None and not again:
                execute(cfg, folder, sweep=sweep, alone=alone)
            else:
                resume(cfg, folder, overrides, sweep=sweep, alone=alone)
        except KeyboardInterrupt as error:
            where = shlex.quote(f"resume={sweep or folder}")
            number = getattr(error, "signum", signal.SIGINT)
            what = "Interrupted" if number == signal.SIGINT else f"Ended by {signal.Signals(number).name}"
            _stop(f"{what}. Go on from the last checkpoint with: {program()} {where}", code=128 + number)
        except Exception as error:
            message = explain(error)
            if message is None or wants_traceback:
                raise
            if launcher is None:
                _stop(message)
            print(f"frostline: run {context.job.num}: {message}", file=sys.stderr)
            raise FailedRun(message) from None  # Hydra runs the others first

    register()
    sys.argv = [sys.argv[0], *arguments]
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()


def _refuse_merged(context: Any, overrides: list[str]) -> None:
    """Stop where Hydra would merge what was meant as several things into one, and the last would win."""
    for group in ONE_OF_A_KIND:
        if context.runtime.choices.get(group) is None:
            _stop(f"{group}: expected the name of one option; only strategies can be combined.")
    given = {key_of(o): o for o in overrides}
    if "seed" in given and not given.get("trainer.seeds", "=null").endswith("=null"):
        _stop(f"{given['seed']} beside {given['trainer.seeds']}: those are the seeds. Leave seed out.")
    for chain in (o for o in overrides if o.startswith("strategy=[")):
        members = [name.strip() for name in chain.partition("=")[2].strip("[]").split(",")]
        if len(set(members)) < len(members):
            _stop(f"{chain}: expected different strategies, each named once.")


def _import_trainer() -> None:
    """Import what trains a model, torch's compiler included, which every optimizer imports at its first step.

    Looking for garbage among the half million objects that this makes takes a fifth of the time, and finds none; the
    collections of a long run leave them out as well.
    """
    if (
        "frostline.app.job" in sys.modules
    ):  # an earlier run of the sweep did: freezing again would keep its model for ever
        return
    gc.disable()
    masks = hasattr(signal, "pthread_sigmask")
    if masks:  # Ctrl-C waits: libraries take an interrupted import for a missing package
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        import torch._dynamo  # noqa: F401

        import frostline.app.job  # noqa: F401
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    gc.freeze()
    gc.enable()


def _end_with(sweep: int) -> None:
    """Let this worker end when the sweep is killed, or has been: its run would go on unseen, beside whoever resumes it."""
    name = f"watch {sweep}"
    if all(thread.name != name for thread in threading.enumerate()):  # a worker does one job after another

        def watch() -> None:
            while os.getppid() == sweep:
                time.sleep(1.0)
            os._exit(1)

        threading.Thread(target=watch, name=name, daemon=True).start()


def _stop(message: str, code: int = 1) -> NoReturn:
    print(f"frostline: {message}", file=sys.stderr)
    raise SystemExit(code)
