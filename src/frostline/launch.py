"""The Hydra entry behind run.py and `frostline run`; errors become one clear message."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from frostline.checks import UsageError
from frostline.config import DictConfig, conf_dir, register
from frostline.explain import explain

ONE_OF_A_KIND = ("stream", "model", "selector", "optimizer", "trainer", "cost", "tracking")


def main(argv: Sequence[str] | None = None) -> None:
    """Compose the configuration from the command line and run the job; exit code 1 with a message where it is wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    failed: list[str] = []
    wants_traceback = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands exceptions on, and they are explained below
    try:
        _run_hydra(_for_resume(arguments), wants_traceback, failed)
    except KeyboardInterrupt:
        _stop("Interrupted before the run began.", code=130)
    except Exception as error:
        message = explain(error)
        if message is None or wants_traceback:
            raise
        _stop(f"{len(failed)} of the sweep's runs failed, as said above." if failed else message)


def _run_hydra(arguments: list[str], wants_traceback: bool, failed: list[str]) -> None:
    """Hand the job to Hydra; put into `failed` what is said of runs of a sweep, whose other runs go on."""
    import hydra

    def job(cfg: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from frostline.job import execute, resume

        context = HydraConfig.get()
        folder = Path(context.runtime.output_dir)
        for group in ONE_OF_A_KIND:
            if context.runtime.choices.get(group) is None:  # Hydra would merge several, and the last would win
                _stop(f"{group}: expected the name of one option; only strategies can be combined.")
        for chain in (o for o in context.overrides.task if o.startswith("strategy=[")):
            members = [name.strip() for name in chain.partition("=")[2].strip("[]").split(",")]
            if len(set(members)) < len(members):
                _stop(f"{chain}: expected different strategies, each named once.")  # Hydra would merge them into one
        try:
            if cfg.resume is None:
                execute(cfg, folder)
            else:
                resume(cfg, folder, list(context.overrides.task))
        except KeyboardInterrupt:
            _stop(f"Interrupted. Go on from the last checkpoint with: python run.py resume={folder}", code=130)
        except Exception as error:
            message = explain(error)
            if message is None or wants_traceback:
                raise
            if context.mode != RunMode.MULTIRUN:
                _stop(message)
            failed.append(message)
            print(f"frostline: run {context.job.num}: {message}", file=sys.stderr)
            raise  # Hydra runs the others first

    register()
    sys.argv = [sys.argv[0], *arguments]
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()


def _for_resume(arguments: list[str]) -> list[str]:
    """Let a resumed run write into its own folder, and leave Hydra's record of the first start alone."""
    folders = [a.partition("=")[2].strip("'\"") for a in arguments if a.startswith("resume=") and a != "resume=null"]
    if not folders:
        return arguments
    if "-m" in arguments or "--multirun" in arguments:
        raise UsageError("resume goes on with one run: leave out -m.")
    folder = Path(folders[-1])
    if not folder.is_dir():
        raise UsageError(f"resume={str(folder)!r}: there is no such folder. Expected the folder of an earlier run.")
    kept = [a for a in arguments if not a.startswith(("resume=", "hydra.run.dir="))]
    where = str(folder.resolve()).replace("'", "\\'")
    return [
        *kept,
        f"resume='{where}'",
        f"hydra.run.dir='{where}'",
        "hydra.output_subdir=null",
    ]


def _stop(message: str, code: int = 1) -> NoReturn:
    print(f"frostline: {message}", file=sys.stderr)
    raise SystemExit(code)
