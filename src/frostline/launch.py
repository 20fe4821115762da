"""The Hydra entry behind run.py and `frostline run`; errors become one clear message."""

import gc
import os
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from frostline.checks import UsageError
from frostline.config import DictConfig, OmegaConf, conf_dir, register
from frostline.explain import explain

ONE_OF_A_KIND = ("stream", "model", "selector", "optimizer", "trainer", "cost", "tracking")


def main(argv: Sequence[str] | None = None) -> None:
    """Compose the configuration from the command line and run the job; exit code 1 with a message where it is wrong."""
    given = sys.argv[1:] if argv is None else argv
    arguments = sorted(given, key=lambda a: a not in ("-m", "--multirun"))  # argparse wants no setting before a flag
    wants_traceback = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands exceptions on, and they are explained below
    gc.disable()  # until all is imported
    try:
        _run_hydra(_for_resume(arguments), wants_traceback)
    except KeyboardInterrupt:
        _stop("Interrupted. A run that had begun goes on with resume=FOLDER.", code=130)
    except FailedRun:
        _stop("Not every run of the sweep is complete, as said above.")
    except Exception as error:
        message = explain(error)
        if message is None or wants_traceback:
            raise
        _stop(message)
    finally:
        gc.enable()


class FailedRun(UsageError):
    """A run of a sweep failed, which was said at once; the others go on, perhaps in other processes."""


def _run_hydra(arguments: list[str], wants_traceback: bool) -> None:
    """Hand the job to Hydra, which calls it for each run; launchers other than its own do so in other processes."""
    import hydra

    here = os.getpid()

    def job(cfg: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        _import_trainer()
        from frostline.job import execute
        from frostline.resuming import resume

        context = HydraConfig.get()
        if os.getppid() == here:  # a worker process, which the launcher started
            _end_with(here)
        folder = Path(context.runtime.output_dir)
        launcher = context.launcher._target_ if context.mode == RunMode.MULTIRUN else None
        sweep = Path(context.sweep.dir).absolute() if launcher else None
        alone = launcher is None or launcher.endswith(".BasicLauncher")
        _refuse_merged(context)
        try:
            if cfg.resume is None:
                execute(cfg, folder, sweep=sweep, alone=alone)
            else:
                resume(cfg, folder, list(context.overrides.task), sweep=sweep, alone=alone)
        except KeyboardInterrupt:
            again = shlex.quote(f"resume={sweep or folder}")
            _stop(f"Interrupted. Go on from the last checkpoint with: python run.py {again}", code=130)
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


def _refuse_merged(context: Any) -> None:
    """Stop where Hydra would merge what was meant as several things into one, and the last would win."""
    for group in ONE_OF_A_KIND:
        if context.runtime.choices.get(group) is None:
            _stop(f"{group}: expected the name of one option; only strategies can be combined.")
    for chain in (o for o in context.overrides.task if o.startswith("strategy=[")):
        members = [name.strip() for name in chain.partition("=")[2].strip("[]").split(",")]
        if len(set(members)) < len(members):
            _stop(f"{chain}: expected different strategies, each named once.")


def _import_trainer() -> None:
    """Import what trains a model, torch's compiler included, which every optimizer imports at its first step.

    Looking for garbage among the half million objects that this makes takes a fifth of the time, and finds none; the
    collections of a long run leave them out as well.
    """
    if "frostline.job" in sys.modules:  # an earlier run of the sweep did: freezing again would keep its model for ever
        return
    gc.disable()
    import torch._dynamo  # noqa: F401

    import frostline.job  # noqa: F401

    gc.freeze()
    gc.enable()


def _end_with(sweep: int) -> None:
    """Let this worker process end when the sweep is killed: its run would go on unseen, beside whoever resumes it."""
    name = f"watch {sweep}"
    if all(thread.name != name for thread in threading.enumerate()):  # a worker does one job after another

        def watch() -> None:
            while os.getppid() == sweep:
                time.sleep(1.0)
            os._exit(1)

        threading.Thread(target=watch, name=name, daemon=True).start()


def _for_resume(arguments: list[str]) -> list[str]:
    """Let a resumed run write into its own folder, and leave Hydra's record of the first start alone.

    A sweep that is resumed is given anew as Hydra recorded it.
    """
    folders = [a.partition("=")[2].strip("'\"") for a in arguments if a.startswith("resume=") and a != "resume=null"]
    if not folders:
        return arguments
    if "-m" in arguments or "--multirun" in arguments:
        raise UsageError("resume knows whether it goes on with a run or a sweep: leave out -m.")
    folder = Path(folders[-1])
    if not folder.is_dir():
        raise UsageError(f"resume={str(folder)!r}: there is no such folder. Expected the folder of an earlier run.")
    kept = [a for a in arguments if not a.startswith(("resume=", "hydra.run.dir="))]
    where = str(folder.resolve()).replace("'", "\\'")
    record = folder / "multirun.yaml"
    if not record.is_file():
        return [*kept, f"resume='{where}'", f"hydra.run.dir='{where}'", "hydra.output_subdir=null"]
    anew = {"resume", "hydra.sweep.dir", "hydra.mode", *(a.partition("=")[0] for a in kept)}
    overrides = OmegaConf.load(record).hydra.overrides
    before = [a for a in (*overrides.hydra, *overrides.task) if a.partition("=")[0] not in anew]
    return ["-m", *before, *kept, f"resume='{where}'", f"hydra.sweep.dir='{where}'"]


def _stop(message: str, code: int = 1) -> NoReturn:
    print(f"frostline: {message}", file=sys.stderr)
    raise SystemExit(code)
