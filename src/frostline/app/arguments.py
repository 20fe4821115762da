"""What stands on the command line, made into what Hydra takes."""

import re
from collections.abc import Sequence
from pathlib import Path

from frostline.app.config import MAY_CHANGE, key_of
from frostline.app.recorded import recorded
from frostline.core.checks import UsageError

DRY_RUN = "--dry-run"
TAKES_A_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p")


def flags_first(given: Sequence[str]) -> list[str]:
    """Return the arguments with flags, and what belongs to them, before settings, as argparse wants them."""
    flags: list[str] = []
    settings: list[str] = []
    for before, argument in zip(("", *given), given, strict=False):
        (flags if argument.startswith("-") or before in TAKES_A_VALUE else settings).append(argument)
    return [*flags, *settings]


def quoted(argument: str) -> str:
    """Return the argument so that Hydra can read it where it names a file or a folder, whatever that is called."""
    key, sign, value = argument.partition("=")
    if not sign or re.fullmatch(r"[\w./~+:-]*", value, re.ASCII):  # nearly all: Hydra's parser takes a while to import
        return argument
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        there = Path(value).expanduser().exists()
    except (OSError, RuntimeError):  # too long for a name, a user who is not there
        there = False
    try:
        read = OverridesParser.create().parse_override(argument)
        other = there and (read.is_sweep_override() or isinstance(read.value(), list | dict))
    except HydraException:
        other = there or key.endswith(".dir")
    return f"{key}='" + value.replace("'", "\\'") + "'" if other else argument


def refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse a sweep over nothing, which Hydra would launch: no run, and no word."""
    for argument in (a for a in arguments if "range(" in a):
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException:  # it will be said when Hydra reads it
            continue
        if override.is_discrete_sweep() and next(override.sweep_iterator(), None) is None:
            raise UsageError(f"{argument}: a sweep over nothing. Expected a range with values, range(0,5) say.")


def for_resume(arguments: list[str]) -> tuple[list[str], bool]:
    """Let a resumed run write into its own folder; return the arguments, and whether they are those of a sweep that goes on.

    Hydra's record of a run's first start is left alone; a sweep starts anew as Hydra recorded it.
    """
    resumed = [a for a in arguments if key_of(a) == "resume" and not a.endswith("=null")]
    if not resumed:
        return arguments, False
    if "-m" in arguments or "--multirun" in arguments:
        raise UsageError("resume knows whether it goes on with a run or a sweep: leave out -m.")
    name = resumed[-1].partition("=")[2].strip("'\"")
    folder = Path(name)
    if not name or not folder.is_dir():
        wrong = "that is a file" if folder.is_file() else "there is no such folder"
        raise UsageError(f"resume={name!r}: {wrong}. Expected the folder of an earlier run or sweep.")
    kept = [a for a in arguments if key_of(a) not in ("resume", "hydra.run.dir")]
    # the run's stream may have settings that the default one has not
    kept = [f"++{a}" if a.startswith("stream.") and key_of(a) in MAY_CHANGE else a for a in kept]
    where = str(folder.resolve()).replace("'", "\\'")
    record = folder / "multirun.yaml"
    if record.is_file():
        return ["-m", *recorded(record, kept), f"hydra.sweep.dir='{where}'"], True
    return [*kept, f"resume='{where}'", f"hydra.run.dir='{where}'", "hydra.output_subdir=null"], False


def for_dry_run(arguments: Sequence[str], folder: str) -> list[str]:
    """Return the arguments of a run of which nothing is kept; UsageError for a sweep, or a run that has begun."""
    kept = [a for a in arguments if a != DRY_RUN and not key_of(a).startswith(("tracking", "hydra.run.dir"))]
    for argument in kept:
        if argument in ("-m", "--multirun") or key_of(argument) == "resume":
            raise UsageError(f"{DRY_RUN} is for one run that has not begun, not with {argument}.")
    return [*kept, "tracking=none", f"hydra.run.dir={folder}", "hydra.output_subdir=null"]
