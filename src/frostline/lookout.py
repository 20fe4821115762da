"""Look up from the steps now and then: progress, a loss that is no number, a checkpoint."""

import time

from torch import Tensor

from frostline.run import Diverged, Progress, Run
from frostline.types import Task

LOOK_EVERY_S = 0.5


class Lookout:
    """Called by the loop about twice a second; `losses` holds those of the task's steps, 0 for steps to come."""

    def __init__(self, run: Run, task: Task, losses: Tensor, steps_per_epoch: int):
        self.run, self.task, self.losses, self.steps = run, task, losses, steps_per_epoch
        self.next = time.monotonic() + LOOK_EVERY_S
        self.saved = time.monotonic()
        self.last = (time.monotonic(), run.meter.row.samples)

    def __call__(self) -> None:
        self.check()
        now, run = time.monotonic(), self.run
        rate = (run.meter.row.samples - self.last[1]) / (now - self.last[0])
        self.last = (now, run.meter.row.samples)
        epoch, step = divmod(run.step - 1, self.steps)
        loss = float(self.losses[run.step - 1])
        for observer in run.observers:
            observer.progress(run, Progress(self.task.index, epoch, step + 1, self.steps, loss, rate))
        if run.save is not None and now - self.saved >= run.settings.checkpoint_every_s:
            with run.meter.paused():
                run.save(run.state_dict())
            self.saved = time.monotonic()
        self.next = time.monotonic() + LOOK_EVERY_S

    def _strengths(self) -> str:
        """Return the settings of the strategies that pull at weights, which diverge where they pull too hard."""
        members = getattr(self.run.strategy, "members", [self.run.strategy])
        pulls = [
            f"strategy.{type(m).__name__.lower()}.strength={m.strength:g}" for m in members if getattr(m, "strength", 0)
        ]
        return f"(or a smaller {', '.join(pulls)}) " if pulls else ""

    def check(self) -> None:
        """Raise Diverged, naming the first step whose loss is not finite."""
        bad = (~self.losses.isfinite()).nonzero()
        if len(bad):
            epoch, step = divmod(int(bad[0]), self.steps)
            raise Diverged(
                f"The loss became {float(self.losses[bad[0]])} in task {self.task.index} ({self.task.name}), epoch "
                f"{epoch}, step {step}. Training stopped; the last good checkpoint is kept. "
                f"A smaller optimizer.lr {self._strengths()}is the usual cure.",
                self.run.folder,
            )
