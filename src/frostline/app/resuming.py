"""Going on with runs that were interrupted, under the configuration they were started with."""

import copy
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from frostline.app.config import MAY_CHANGE, CostConfig, DictConfig, differences, key_of
from frostline.app.job import Job, execute, run_jobs, with_seed
from frostline.app.targets import check_stored, check_target, plain
from frostline.core.checks import UsageError
from frostline.core.files import owned
from frostline.loop.settings import TrainerConfig
from frostline.records import checkpoints, results


class Changed(UsageError):
    """What is asked for is not what the run in the folder was started with."""


def resume(
    cfg: DictConfig, folder: Path, overrides: list[str], *, sweep: Path | None = None, alone: bool = True
) -> list[dict[str, Any]]:
    """Go on with the run in `folder`, or with the runs of several seeds, under the configuration they were started with.

    Where the folder is one of a `sweep` that goes on, its run may not have begun yet, or an earlier sweep may have left it.
    """
    cfg.resume = None
    with owned(folder):
        if len(seeds := seed_folders(folder)) > 1:
            checkpoints.agree(seeds)
        return _resume_owned(cfg, folder, overrides, sweep, alone)


def _resume_owned(
    cfg: DictConfig, folder: Path, overrides: list[str], sweep: Path | None, alone: bool
) -> list[dict[str, Any]]:
    if sweep is not None and not any(folder.glob(f"**/{checkpoints.NAME}")):
        return execute(cfg, folder, sweep=sweep, alone=alone)
    record = folder / ".hydra" / "config.yaml"
    if sweep is None and record.is_file() and not any(folder.glob(f"**/{checkpoints.NAME}")):
        if not record.with_name("overrides.yaml").is_file():  # the last that Hydra writes, and not in one piece
            raise UsageError(
                f"resume={str(folder)!r}: the run was ended before its settings were written, and nothing was learned. "
                "Start it again, as you did."
            )
        stored = OmegaConf.load(record)
        assert isinstance(stored, DictConfig)
        check_stored(stored, cfg, str(record))
        print(
            f"frostline: the run in {folder} was ended before it began; it begins now, with the settings it was given."
        )
        return execute(stored, folder, alone=alone)
    try:
        states, jobs = _find(copy.deepcopy(cfg), folder, overrides)
    except Changed:
        if sweep is None:
            raise
        print(f"frostline: {folder} holds an earlier run with other settings; this one begins anew.")
        return execute(cfg, folder, sweep=sweep, alone=alone)
    left = [job for job in jobs if job.state is None or not results.is_complete(job.folder)]
    if not left:
        print(f"frostline: the run in {folder} is already complete.")
        return [results.read(job.folder) for job in jobs]
    _say_what_rounds_differently(next(iter(states.values())), left[0].cfg.trainer.threads or torch.get_num_threads())
    return run_jobs(left, sweep or folder, alone, brief=sweep is not None)


def _say_what_rounds_differently(state: dict[str, Any], threads: int) -> None:
    before, processor = state["threads"], torch.backends.cpu.get_cpu_capability()
    if before != threads:
        print(
            f"frostline: the run began on {before} threads and goes on with {threads}: sums may round differently. "
            f"trainer.threads={before} keeps its bits."
        )
    if state["processor"] != processor:
        print(
            f"frostline: the run began on a processor with {state['processor']} and goes on on one with {processor}: "
            "sums may round differently."
        )


def seed_folders(folder: Path) -> list[Path]:
    """Return the folders of the seeds that learned together in this one."""
    return sorted((p for p in folder.glob("seed_*") if p.name[5:].isdigit()), key=lambda path: int(path.name[5:]))


def _find(cfg: DictConfig, folder: Path, overrides: list[str]) -> tuple[dict[Path, dict[str, Any]], list[Job]]:
    """Return the checkpoints in the folder, and the jobs of one run or of several seeds that they belong to."""
    seeds = seed_folders(folder)
    if (folder / checkpoints.NAME).is_file() or not any((path / checkpoints.NAME).is_file() for path in seeds):
        seeds = [folder]  # one run; where there is none, the error says so
    several = [int(path.name[5:]) for path in seeds] if seeds != [folder] else None
    given = cfg.trainer.seeds
    if given is not None and sorted(given) != several:
        raise Changed(
            f"resume={str(folder)!r}: that run was started with trainer.seeds={several}, not {list(given)}. Leave "
            "trainer.seeds out to go on with it, or start a new run without resume."
        )
    cfg.trainer.seeds = None
    states = {path: checkpoints.load(path) for path in seeds if not several or (path / checkpoints.NAME).is_file()}
    jobs = []
    for path in seeds:
        state = states.get(path, next(iter(states.values())))  # of another seed: this one was killed before its first
        stored = _stored(cfg, state, path, overrides, own_seed=several is None)
        jobs.append(Job(stored if path in states else with_seed(stored, int(path.name[5:])), path, states.get(path)))
    return states, jobs


def _add_new_settings(stored: DictConfig, folder: Path) -> None:
    """Give what an earlier version began the settings that came since, as they come: then they do what it did."""
    new = []
    for section, schema in (("trainer", TrainerConfig), ("cost", CostConfig)):
        for key, value in OmegaConf.structured(schema).items():
            if key not in stored[section]:
                stored[section][key] = value
                new.append(f"{section}.{key}")
    if new:
        print(f"frostline: the run in {folder} was begun by an earlier version, which had no {', '.join(new)}.")


def _stored(
    cfg: DictConfig, state: dict[str, Any], folder: Path, overrides: list[str], *, own_seed: bool
) -> DictConfig:
    """Return the configuration that a checkpoint was taken under, with what may be given anew; refuse other changes."""
    stored = DictConfig(copy.deepcopy(state["config"]))
    checkpoints.refuse_changed_settings(state, folder / checkpoints.NAME)
    _add_new_settings(stored, folder)
    check_stored(stored, cfg, str(folder / checkpoints.NAME))
    given = [key for key in map(key_of, overrides) if key != "resume"]
    if "seed" not in given or not own_seed:
        cfg.seed = stored.seed  # what is interpolated from it is no difference
    found = differences(state["config"], plain(cfg))
    for key in given:
        if key.startswith(MAY_CHANGE):
            OmegaConf.update(stored, key, OmegaConf.select(cfg, key), force_add=True)
            if key.startswith("stream."):
                check_target("stream", stored.stream)
            continue
        for path, (old, new) in found.items():
            if path.startswith(key) or (key == "experiment" and not path.startswith(("resume", *MAY_CHANGE))):
                raise Changed(
                    f"resume={str(folder)!r}: that run was started with {path}={old!r}, not {new!r}. Leave {key} out to "
                    "go on with it, or start a new run without resume."
                )
    return stored
