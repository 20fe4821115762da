"""Full fine-tuning, priced beside a run."""

import copy
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from frostline.core.scope import Scope
from frostline.core.structure import everything
from frostline.core.types import Batch, Task, masked
from frostline.costs.step import StepCosts


@dataclass(frozen=True)
class Reference:
    """Plain full fine-tuning, priced beside a run: per sample, on batches like those the run trained on; None: not yet."""

    flops_per_sample: float | None = None
    seconds_per_sample: float | None = None

    def count(self, model: nn.Module, x: Tensor) -> "Reference":
        """Return this with the operations of a full step filled in."""
        return replace(self, flops_per_sample=StepCosts.trace(model, x).full / len(x))

    def measure(
        self,
        model: nn.Module,
        task: Task,
        batch: Batch,
        optimizer: Callable[..., torch.optim.Optimizer],
        *,
        repeats: int,
        micro: int | None = None,
        casting: Callable[[], AbstractContextManager] = nullcontext,
    ) -> "Reference":
        """Return this with the seconds filled in: of `repeats` real steps, after one to warm up, on a throw-away copy.

        micro: samples at once, their gradients added up. casting: what a forward pass runs in (trainer.precision).
        """
        twin = copy.deepcopy(model)
        with torch.random.fork_rng(), Scope(twin, everything(model)).thawed() as scope:
            stepper = optimizer(list(scope.parameters.values()))

            def step() -> float:
                _synchronise(batch.x.device)
                begin = time.perf_counter()
                stepper.zero_grad(set_to_none=True)
                for start in range(0, len(batch), micro or len(batch)):
                    part = batch.rows(slice(start, start + micro)) if micro else batch
                    with casting():
                        logits = twin(part.x)
                    loss = task.objective.loss(masked(logits.float(), task.mask(part)), part.y)
                    (loss * len(part) / len(batch)).backward()
                stepper.step()
                _synchronise(batch.x.device)
                return time.perf_counter() - begin

            step()
            seconds = statistics.median(step() for _ in range(repeats))
        return replace(self, seconds_per_sample=seconds / len(batch))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
