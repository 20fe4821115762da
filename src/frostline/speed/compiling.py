"""torch.compile for the forward and backward pass of full batches, where the run is long enough to repay it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError
from frostline.core.scope import Scope
from frostline.core.types import Batch
from frostline.loop.lesson import Lesson
from frostline.loop.plain import Alone, wants_pieces
from frostline.loop.pricing import StepCounter, traceless
from frostline.loop.stepping import take_step
from frostline.models.classifier import Classifier
from frostline.speed.stacking import pays

# What docs/performance.md measured on 2 cores: a share of the step saved by compiling, operations a second, and the
# seconds of a cold compilation. Rules of thumb on purpose: a clock here would make the same run take other kernels.
GAIN, RATE, COLD_SECONDS = 0.05, 1e11, 60.0
WIDE = 256  # channels: such convolutions take all the time, and there is little around them to fuse
SLOW = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)  # compiled, a CPU gathers their gradients one by one


class Compiler:
    """Compiles the forward pass of a run's full batches; `forward` is None where that would not pay.

    The compilation is a phase of the bill. A batch of another size (the last one of an epoch) would be compiled anew, so it
    goes through the model as it is.

    on and reduce-overhead are refused where a model cannot be compiled. auto compiles attention, and narrow convolutional nets
    without max-pooling, on a CPU if what the stream has still to learn would save more than a cold compilation takes, and
    says so where that fails.
    """

    def __init__(self) -> None:
        self.forward: Callable[[Batch], Tensor] | None = None
        self._compiled: tuple[str, Any] | None = None  # the shape of the model that it was compiled for

    def get_ready(self, lesson: Lesson, scope: Scope) -> None:
        """Compile for this stretch, where that is asked for or pays."""
        self.forward = None
        run, mode = lesson.run, lesson.run.settings.compile
        whole = len(lesson.task.train) >= run.settings.batch_size
        whole = whole and run.settings.micro_batch_size is None and not run.settings.activation_checkpointing
        if mode == "off" or lesson.entrance.line or lesson.done or not whole or run.strategy.uses("watching"):
            return
        if mode == "auto" and (lesson.change.until is not None or not _repays(lesson, scope)):
            return
        forward = self._forward(lesson)
        batch = next(iter(lesson.task.train.batches(run.settings.batch_size)))
        with run.meter.phase("compile", lesson.task.index) as row:
            try:
                with traceless(run.strategy, scope, run.device):  # one step, so that both passes are compiled
                    row.samples += take_step(Alone(lesson, scope, None, forward), [batch], update=False)[1][0]
                row.steps += 1
                self.forward = forward
            except (
                Exception
            ) as error:  # compilers fail in many ways: no C++ compiler, an operator that they do not know
                reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".") + "."
                if " " in torch.__file__ and "C++" in reason:
                    reason += (
                        f" It cannot link to torch in a folder with a space in its name, {Path(torch.__file__).parent}."
                    )
                if mode != "auto":
                    raise UsageError(
                        f"trainer.compile={mode}: {type(run.model).__name__} could not be compiled: {reason} "
                        "Use trainer.compile=off."
                    ) from error
                print(f"frostline: torch.compile failed ({reason}); training goes on without it.")
                run.settings = replace(run.settings, compile="off")

    def _forward(self, lesson: Lesson) -> Callable[[Batch], Tensor]:
        run, entrance = lesson.run, lesson.entrance
        if self._compiled is None or self._compiled[0] != run.shape:
            torch._dynamo.reset()  # what earlier runs of this process compiled is in the way of no limit then
            how = "reduce-overhead" if run.settings.compile == "reduce-overhead" else None  # on a GPU: CUDA graphs
            self._compiled = (run.shape, torch.compile(run.model, dynamic=False, mode=how))
        compiled, known = self._compiled[1], []  # the one shape of samples that it is compiled for

        def forward(batch: Batch) -> Tensor:
            known[:] = known or [batch.x.shape]
            if batch.x.shape != known[0]:
                return entrance.logits(batch)
            with run.casting():
                return compiled(batch.x).float()

        return forward


def _repays(lesson: Lesson, scope: Scope) -> bool:
    run = lesson.run
    if run.device.type != "cpu" or type(run.model) is not Classifier or pays(run.model, run.device):
        return False
    if wants_pieces(lesson):  # a compiled step makes all logits
        return False
    if any(isinstance(m, SLOW) or (isinstance(m, nn.Conv2d) and m.out_channels >= WIDE) for m in run.model.modules()):
        return False
    batch = next(iter(lesson.task.train.batches(run.settings.batch_size)))
    flops, _ = StepCounter(lesson, scope, Alone(lesson, scope)).known_for(batch)
    steps = lesson.total * (len(run.stream) - lesson.task.index)
    return GAIN * steps * flops / RATE > COLD_SECONDS
