"""A sweep that goes on: its own arguments, as Hydra recorded them when it was started."""

import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from frostline.app.config import MAY_CHANGE, key_of
from frostline.core.checks import UsageError

HARMLESS = (  # env_set, callbacks, logging and the search path are not
    "hydra.sweep.", "hydra.run.dir", "hydra.job.name", "hydra.job.chdir", "hydra.job.config.", "hydra.launcher.n_jobs",
    "hydra.sweeper.params", "hydra.verbose", "hydra/launcher", "hydra/sweeper",
)  # fmt: skip


def recorded(record: Path, given: list[str]) -> list[str]:
    """Return the sweep's own arguments in their order, with what is given anew of where and how fast."""
    try:
        stored: Any = OmegaConf.to_container(OmegaConf.load(record), resolve=False)
        before = [str(a) for kind in ("hydra", "task") for a in stored["hydra"]["overrides"][kind]]
    except Exception as error:  # yaml, OmegaConf and what is missing each have their own
        raise UsageError(
            f"{record} is damaged or is not Hydra's record of a sweep ({type(error).__name__}). Each run in the folder can be "
            "gone on with by itself: resume=FOLDER/0."
        ) from error
    before = [a for a in before if key_of(a) not in ("hydra.sweep.dir", "hydra.mode")]
    for argument in before:
        if argument not in given:
            _refuse_what_calls(argument, record)
    for argument in given:
        free = (*MAY_CHANGE, "hydra/launcher", "hydra.launcher", "hydra.verbose")
        if argument not in before and not key_of(argument).startswith(free):
            raise UsageError(
                f"{argument}: a sweep goes on as it was started. Expected settings of where and how fast only "
                f"({', '.join(free)}); leave {key_of(argument)} out, or start a new sweep."
            )
    anew = {key_of(argument): argument for argument in given}
    if anew and "override_dirname" in OmegaConf.to_yaml(stored["hydra"]["sweep"]):
        # else all runs would begin in new folders
        if changed := next((key for key in anew if any(key_of(a) == key for a in before)), None):
            raise UsageError(f"{anew[changed]}: the runs' folders are named by it. Leave it out, or start a new sweep.")
        left_out = [*stored["hydra"]["job"]["config"]["override_dirname"]["exclude_keys"], *anew]
        before.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(left_out)}]")
    return [*(anew.pop(key_of(argument), argument) for argument in before), *anew.values()]


def _refuse_what_calls(argument: str, record: Path) -> None:
    """Refuse a stored argument, which may be anybody's, that could name something to be called."""
    value = argument.partition("=")[2]
    of_hydra = key_of(argument).startswith("hydra")
    fine = key_of(argument).startswith(HARMLESS) if of_hydra else not re.search(r"\$\{[^}]*:", value)  # a resolver
    if "_target_" in argument or not fine:
        raise UsageError(
            f"{record} holds {argument}, which may call anything. If it is yours, say it again beside resume=."
        )
