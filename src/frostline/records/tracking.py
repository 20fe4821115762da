"""Weights & Biases: offline unless the user says online, and never a reason for a run to stop."""

import hashlib
import logging
import os
import platform
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from frostline.core import metrics
from frostline.costs.meter import COLUMNS
from frostline.loop.run import Moment, Observer, Run
from frostline.records import results
from frostline.records.results import metrics_of

log = logging.getLogger(__name__)


def tracker(cfg: DictConfig, folder: Path, config: dict[str, Any], among: int = 1) -> "list[Observer]":
    """Return what tracking=... asks for, possibly nothing. among: how many runs of this process are open at once."""
    return [] if cfg.name == "none" else [WandbTracker(cfg, folder, config, among)]


class WandbTracker(Observer):
    """Log the configuration, the metrics after every task, the accuracy matrix and the ledger."""

    def __init__(self, cfg: DictConfig, folder: Path, config: dict[str, Any], among: int = 1):
        self.cfg = cfg
        self.among = among
        self.folder = folder
        self.config = config
        self.run: Any = None
        self.complete = False

    def started(self, run: Run) -> None:
        """Open the W&B run; a resumed one goes on under the same id."""
        mode = os.environ.get("WANDB_MODE", "")  # W&B's own way to say so is heard as well
        if mode in ("disabled", "dryrun", "offline"):
            self._try("start", partial(self._init, "disabled" if mode == "disabled" else "offline"))
            return
        started = self._try("start", partial(self._init, self.cfg.mode))
        if not started and self.cfg.mode == "online" and self._try("start", partial(self._init, "offline", "-offline")):
            print(f"frostline: W&B records offline; wandb sync {self.folder}/wandb/offline-run-* uploads it later.")

    def _init(self, mode: Any, again: str = "") -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import wandb

            strategy = "+".join(self.config["strategy"])
            above = self.folder.parents[1] if self.among > 1 else self.folder.parent
            sweep = above if (above / "multirun.yaml").exists() else self.folder.parent if self.among > 1 else None
            self.run = wandb.init(
                project=self.cfg.project,
                entity=self.cfg.entity,
                mode=mode,
                dir=str(self.folder),
                id=hashlib.sha1(f"{platform.node()}:{self.folder.resolve()}".encode()).hexdigest()[:12] + again,
                resume="allow",
                reinit="create_new" if self.among > 1 else None,
                name=f"{strategy}-seed{self.config['seed']}",
                group=self.cfg.group or (sweep.name if sweep else None),
                tags=[*self.cfg.tags, strategy, *(["sweep"] if sweep else [])],
                config=self.config,
                settings=wandb.Settings(
                    init_timeout=10,
                    silent=True,
                    disable_git=True,
                    x_disable_stats=True,
                    x_save_requirements=not sweep,  # the list of all packages takes .2 s; result.json has what counts
                    console="off",
                ),
            )
            self.run.define_metric("train/*", step_metric="train/step")
            for name in (
                "accuracy/*",
                "cost/*",
                "held_out/*",
                "output_drift/*",
                "answers/*",
                "harness/*",
                *metrics.NAMES,
            ):
                self.run.define_metric(name, step_metric="task")

    def task_done(self, run: Run, index: int) -> None:
        """Log the metrics of the tasks learned so far and what the task cost."""

        def send() -> None:
            values: dict[str, Any] = {"task": index}
            rows = run.progress.accuracy
            values |= {k: v for k, v in metrics_of(run.progress, len(run.stream)).items() if v is not None}
            values |= {f"accuracy/task_{j}": a for j, a in enumerate(rows[-1]) if a is not None}
            for name, suite in run.progress.held_out.items():
                values |= {f"held_out/{name}/{key}": v[-1] for key, v in suite.items() if v[-1] is not None}
            for row in results.answered(run.progress.answers):
                if row["after"] == index:
                    values |= {f"answers/{row['of']}/{key}": row[key] for key in ("exact", "rouge_l")}
            for row in run.progress.harness:
                if row["after"] == index:
                    values |= {f"harness/{row['of']}/{key}": row[key] for key in row if key not in ("after", "of")}
            last = {row["suite"]: row for row in run.progress.output_drift}
            for name, row in last.items():
                values |= {f"output_drift/{name}/{key}": row[key] for key in ("kl", "entropy", "same")}
                values |= {f"output_drift/{name}/mass of {group}": mass for group, mass in row["mass"].items()}
            for row in run.meter.rows:
                if row.task == index:
                    values |= {f"cost/{row.phase}/{key}": getattr(row, key) for key in ("flops", "seconds")}
            _, values["cost/flops_so_far"], values["cost/seconds_so_far"] = run.meter.spent()
            self.run.log(values)

        self._try("log a task", send)

    def progress(self, run: Run, moment: Moment) -> None:
        """Log the learning curve."""
        values = {f"train/{key}": getattr(moment, key) for key in ("loss", "rate", "gradient_norm", "flops", "seconds")}
        self._try("log the loss", lambda: self.run.log({**values, "train/step": moment.steps_taken}))

    def finished(self, content: dict[str, Any], folder: Path) -> None:
        """Log the tables, the heat map and the summary."""

        def send() -> None:
            import wandb

            names = content["stream"]["tasks"]
            matrix: list[Any] = [["untrained", *content["accuracy"][0]]]
            matrix += [[n, *row] for n, row in zip(names, content["accuracy"][1:], strict=True)]
            ledger: list[Any] = [[row[c] for c in COLUMNS] for row in content["ledger"]]
            values: dict[str, Any] = {
                "accuracy_matrix": wandb.Table(columns=["after", *names], data=matrix),
                "ledger": wandb.Table(columns=list(COLUMNS), data=ledger),
            }
            values |= {f"figures/{p.stem}": wandb.Image(str(p)) for p in sorted((folder / "figures").glob("*.png"))}
            self.run.log(values)
            for name, value in {**content["metrics"], **content["totals"]}.items():
                self.run.summary[name] = value
            for name, value in content["full_finetuning"].items():
                self.run.summary[f"full_finetuning/{name}"] = value

        self.complete = True
        self._try("log the results", send)

    def close(self) -> None:
        """Flush; a run that is not complete is marked as failed."""
        self._try("finish", lambda: self.run.finish(exit_code=0 if self.complete else 1))
        self.run = None

    def _try(self, what: str, action: Callable[[], object]) -> bool:
        """Tracking is a convenience: whatever goes wrong is said once and the run goes on with its local files."""
        if self.run is None and what != "start":
            return False
        try:
            action()
            return True
        except Exception as error:  # W&B raises errors of many unrelated classes
            log.warning("W&B could not %s: %s", what, error)
            print(f"frostline: W&B could not {what} ({error}); the run goes on, results are in {self.folder}.")
            self.run = None
            return False
