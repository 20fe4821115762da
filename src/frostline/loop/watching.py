"""Look up from the steps now and then: progress, a loss that is no number, a checkpoint."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from frostline.loop.lesson import Lesson
from frostline.loop.run import Diverged, Moment

LOOK_EVERY_S = 0.5


class Lookout:
    """Called by the loop about twice a second, and where a task ends."""

    def __init__(self, lesson: Lesson):
        self.lesson, self.run = lesson, lesson.run
        self.next = time.monotonic() + LOOK_EVERY_S
        self.last = (time.monotonic(), self.run.meter.row.samples)

    def __call__(self, gradients: Mapping[str, Tensor]) -> None:
        self.check()
        now, run, lesson = time.monotonic(), self.run, self.lesson
        speed = (run.meter.row.samples - self.last[1]) / max(1e-9, now - self.last[0])
        self.last = (now, run.meter.row.samples)
        taken = run.progress.step
        epoch, step = divmod(taken - 1, lesson.steps)
        if run.observers:
            norms = [g.detach().float().norm() for g in gradients.values()]
            steps, flops, seconds = run.meter.spent()
            optimizer = run.open_optimizer
            moment = Moment(
                task=lesson.task.index, part=run.progress.part, epoch=epoch, step=step + 1, steps=lesson.steps,
                steps_taken=steps, done=taken / lesson.total,
                loss=float(lesson.losses[taken - 1]),
                rate=float(optimizer.param_groups[0]["lr"]) if optimizer is not None else 0.0,
                gradient_norm=float(torch.stack(norms).norm()) if norms else 0.0,
                flops=flops, seconds=seconds,
                samples_per_second=speed,
            )  # fmt: skip
            for observer in run.observers:
                observer.progress(run, moment)
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
        losses, task = self.lesson.losses, self.lesson.task
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            epoch, step = divmod(int(bad[0]), self.lesson.steps)
            raise Diverged(
                f"The loss became {float(losses[bad[0]])} in task {task.index} ({task.name}), epoch "
                f"{epoch}, step {step}. Training stopped; the last good checkpoint is kept. "
                f"A smaller optimizer.lr {self._strengths()}is the usual cure.",
                self.run.folder,
            )


def lookout(lesson: Lesson) -> Lookout:
    """Return the lesson's lookout; stretches may be shorter than the time between two looks."""
    if lesson.lookout is None:
        lesson.lookout = Lookout(lesson)
    return lesson.lookout
