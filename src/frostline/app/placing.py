"""Where a run or a sweep is written, when nobody named a folder: one that no other run has."""

import json
import time
from pathlib import Path

from frostline.core.checks import UsageError
from frostline.core.files import LOCK, cannot_be_made
from frostline.loop.settings import TrainerConfig

ASKS_ONLY = ("--help", "-h", "--hydra-help", "--info", "-i", "--cfg", "-c", "--version", "--shell-completion", "-sc")
RESULT = "result.json"
OWN_CONFIG = ("--config-name", "-cn")  # it may say where itself


FLAGS = (
    *ASKS_ONLY, *OWN_CONFIG, "--run", "-r", "--multirun", "-m", "--resolve", "--package", "-p", "--config-path", "-cp",
    "--config-dir", "-cd", "--experimental-rerun",
)  # fmt: skip


def refuse_flags(arguments: list[str]) -> None:
    """Refuse a flag that is none of Hydra's: settings have no dashes here."""
    for place, argument in enumerate(arguments):
        name = argument.partition("=")[0]
        if argument.startswith("-") and len(name) > 1 and not name[1].isdigit() and name not in FLAGS:
            key = name.lstrip("-").replace("-", "_")
            value = argument.partition("=")[2] or next(iter(arguments[place + 1 : place + 2]), "...")
            key = f"trainer.{key}" if key in vars(TrainerConfig()) else key
            raise UsageError(f"{name}: settings are written key=value, such as {key}={value}. Flags: see --help.")


def place(arguments: list[str]) -> tuple[list[str], Path | None]:
    """Return the arguments with a fresh folder among them, and that folder; as they are where one is named.

    Two runs that begin within a second would share what the clock names; making a folder tells who came first.
    """
    sweep = any(a in ("-m", "--multirun") or a.lower() == "hydra.mode=multirun" for a in arguments)
    key = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    if any(_sets(a, key) for a in arguments) or any(a.startswith((*ASKS_ONLY, *OWN_CONFIG)) for a in arguments):
        return arguments, None
    stamp = Path("multirun" if sweep else "outputs", time.strftime("%Y-%m-%d"), time.strftime("%H-%M-%S"))
    folder, number = stamp, 1
    while True:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return [*arguments, f"{key}={folder}"], folder
        except FileExistsError:
            folder, number = stamp.with_name(f"{stamp.name}-{number}"), number + 1
        except OSError as error:
            raise cannot_be_made(folder, key, error) from error


def named(arguments: list[str]) -> Path | None:
    """Return the folder that the arguments name for the run, or for the whole sweep; None where only Hydra can tell."""
    if any(a.startswith(ASKS_ONLY) for a in arguments):
        return None
    given = [a for a in arguments if _sets(a, "hydra.run.dir") or _sets(a, "hydra.sweep.dir")]
    if not given:
        return None
    key, _, value = given[-1].partition("=")
    value = value.strip("'\"").replace("\\'", "'")
    if not value:
        raise UsageError(f"{key}='': expected the name of a folder.")
    return None if "${" in value else Path(value)


def refuse_complete(folder: Path, arguments: list[str]) -> None:
    """Refuse to begin anew where a complete run is, unless the user says so."""
    if any(a.partition("=")[0].lstrip("+") == "overwrite" and a.lower().endswith("=true") for a in arguments):
        return
    for path in (folder / RESULT, *sorted(folder.glob(f"*/{RESULT}"))):
        try:
            complete = json.loads(path.read_text(encoding="utf-8"))["status"] == "complete"
        except (OSError, ValueError, KeyError, TypeError):  # none, or none of ours
            continue
        if complete:
            raise UsageError(
                f"{path.parent} holds a complete run. Expected another folder; overwrite=true takes its place, and "
                f"resume={folder} goes on with what is not complete."
            )


def _sets(argument: str, key: str) -> bool:
    return argument.partition("=")[0].lstrip("+") == key


def tidy(folder: Path | None) -> None:
    """Take a folder away again into which nothing was written."""
    if folder is not None and [path.name for path in folder.iterdir()] == [LOCK]:
        (folder / LOCK).unlink()
    for empty in (folder, folder.parent) if folder is not None else ():
        try:
            empty.rmdir()
        except OSError:  # not empty
            return
