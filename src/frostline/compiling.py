"""torch.compile for the forward and backward pass of full batches, where the run is long enough to repay it."""

from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor, nn

from frostline.checks import UsageError
from frostline.lesson import Lesson
from frostline.models import Classifier
from frostline.scope import Scope
from frostline.stacking import pays
from frostline.stepping import Forward, StepCounter, step_kind, traceless, train_step
from frostline.types import Batch

# What docs/performance.md measured on 2 cores: a share of the step saved by compiling, operations a second, and the
# seconds of a cold compilation. Rules of thumb on purpose: a clock here would make the same run take other kernels.
GAIN, RATE, COLD_SECONDS = 0.05, 1e11, 60.0
WIDE = 256  # channels: such convolutions take all the time, and there is little around them to fuse
SLOW = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)  # compiled, a CPU gathers their gradients one by one


def compiled_forward(lesson: Lesson, scope: Scope) -> tuple[Hashable, Forward] | None:
    """Return the kind of batch that is compiled for, with the forward pass; None where it would not pay.

    The compilation is a phase of the bill. A batch of another kind (the last one of an epoch) would be compiled anew.

    on and reduce-overhead are refused where a model cannot be compiled. auto compiles attention, and narrow convolutional nets
    without max-pooling, on a CPU if what the stream has still to learn would save more than a cold compilation takes, and
    says so where that fails.
    """
    run, mode = lesson.run, lesson.run.settings.compile
    whole = len(lesson.task.train) >= run.settings.batch_size
    if mode == "off" or lesson.prefix.line or lesson.done or not whole:
        return None
    assert run.change is not None
    if mode == "auto" and (run.change.until is not None or not _repays(lesson, scope)):
        return None
    if run.compiled is None:
        torch._dynamo.reset()  # what earlier runs of this process compiled is in the way of no limit then
        how = "reduce-overhead" if mode == "reduce-overhead" else None  # on a GPU: CUDA graphs
        run.compiled = torch.compile(run.model, dynamic=False, mode=how)
    compiled, prefix = run.compiled, lesson.prefix

    def forward(batch: Batch, mask: Tensor | None) -> Tensor:
        with run.casting():
            return compiled(prefix.augment(batch.x), mask).float()

    batch = next(iter(lesson.task.train.batches(run.settings.batch_size)))
    kind = step_kind(run, batch)
    with run.meter.phase("compile", lesson.task.index) as row:
        try:
            with traceless(run, scope):  # one step, so that both passes are compiled
                row.samples += train_step(run.strategy, scope, lesson.task, None, batch, forward)[1]
            row.steps += 1
        except Exception as error:  # compilers fail in many ways: no C++ compiler, an operator that they do not know
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if mode != "auto":
                raise UsageError(
                    f"trainer.compile={mode}: {type(run.model).__name__} could not be compiled: {reason} "
                    "Use trainer.compile=off."
                ) from error
            print(f"frostline: torch.compile failed ({reason}); training goes on without it.")
            run.settings = replace(run.settings, compile="off")
            return None
    return kind, forward


def _repays(lesson: Lesson, scope: Scope) -> bool:
    run = lesson.run
    if run.device.type != "cpu" or type(run.model) is not Classifier or pays(run.model, run.device):
        return False
    if any(isinstance(m, SLOW) or (isinstance(m, nn.Conv2d) and m.out_channels >= WIDE) for m in run.model.modules()):
        return False
    batch = next(iter(lesson.task.train.batches(run.settings.batch_size)))
    flops, _ = StepCounter(run, scope, lesson.task, lesson.prefix.logits, 0).known_for(batch)
    steps = lesson.total * (len(run.stream) - lesson.task.index)
    return GAIN * steps * flops / RATE > COLD_SECONDS
