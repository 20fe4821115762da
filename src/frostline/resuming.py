"""Going on with runs that were interrupted, under the configuration they were started with."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from frostline import checkpoints, results
from frostline.checks import UsageError
from frostline.config import DictConfig, differences, plain
from frostline.job import Job, execute, run_jobs, with_seed

MAY_CHANGE = (  # on a resume: what decides where and how fast, not what is learned
    "trainer.device", "trainer.threads", "trainer.checkpoint_every_s", "trainer.prefix_cache_gib", "tracking",
    "checkpoint", "figures", "cost.reference_steps", "stream.data_root", "stream.download",
)  # fmt: skip


def resume(
    cfg: DictConfig, folder: Path, overrides: list[str], *, sweep: Path | None = None, alone: bool = True
) -> list[dict[str, Any]]:
    """Go on with the run in `folder`, or with the runs of several seeds, under the configuration they were started with.

    Where the folder is one of a `sweep` that goes on, its run may not have begun yet.
    """
    if sweep is not None and not any(folder.glob(f"**/{checkpoints.NAME}")):
        cfg.resume = None
        return execute(cfg, folder, sweep=sweep, alone=alone)
    seeds = sorted((p for p in folder.glob("seed_*") if p.name[5:].isdigit()), key=lambda path: int(path.name[5:]))
    if (folder / checkpoints.NAME).is_file() or not any((path / checkpoints.NAME).is_file() for path in seeds):
        seeds = [folder]  # one run; where there is none, the error says so
    states = {path: checkpoints.load(path) for path in seeds if len(seeds) == 1 or (path / checkpoints.NAME).is_file()}
    jobs = []
    for path in seeds:
        if path in states:
            stored = _stored(cfg, states[path], path, overrides)
        else:  # killed before its first checkpoint
            stored = with_seed(_stored(cfg, next(iter(states.values())), path, overrides), int(path.name[5:]))
        state = states.get(path)
        if state is None or not _complete(path):
            jobs.append(Job(stored, path, state))
    if not jobs:
        print(f"frostline: the run in {folder} is already complete.")
        return [results.read(path) for path in seeds]
    before, now = next(iter(states.values()))["threads"], jobs[0].cfg.trainer.threads or torch.get_num_threads()
    if before != now:
        print(
            f"frostline: the run began on {before} threads and goes on with {now}: sums may round differently. "
            f"trainer.threads={before} keeps its bits."
        )
    return run_jobs(jobs, sweep or folder, alone)


def _complete(folder: Path) -> bool:
    try:
        return results.read(folder)["status"] == "complete"
    except (OSError, ValueError):  # killed after the last task's checkpoint
        return False


def _stored(cfg: DictConfig, state: dict[str, Any], folder: Path, overrides: list[str]) -> DictConfig:
    """Return the configuration that a checkpoint was taken under, with what may be given anew; refuse other changes."""
    stored = DictConfig(state["config"])
    given = [o.lstrip("+~").partition("=")[0] for o in overrides if not o.startswith("resume=")]
    if "seed" not in given:
        cfg.seed = stored.seed  # what is interpolated from it is no difference
    found = differences(state["config"], plain(cfg))
    for key in given:
        if key.startswith(MAY_CHANGE):
            OmegaConf.update(stored, key, OmegaConf.select(cfg, key), force_add=True)
            continue
        for path, (old, new) in found.items():
            if path.startswith(key) or (key == "experiment" and not path.startswith(("resume", *MAY_CHANGE))):
                raise UsageError(
                    f"resume={str(folder)!r}: that run was started with {path}={old!r}, not {new!r}. Leave {key} out to "
                    "go on with it, or start a new run without resume."
                )
    return stored
