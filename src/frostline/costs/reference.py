"""Full fine-tuning, priced beside a run."""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frostline.costs.step import StepCosts
from frostline.scope import Scope, everything


@dataclass(frozen=True)
class Reference:
    """Plain full fine-tuning, priced beside a run: per sample, on batches like those the run trained on."""

    flops_per_sample: float
    seconds_per_sample: float | None

    @classmethod
    def measure(
        cls,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        mask: Tensor | None,
        optimizer: Callable[..., torch.optim.Optimizer],
        *,
        repeats: int,
    ) -> "Reference":
        """Price one full step, and time `repeats` real ones (after one to warm up) on a throw-away copy."""
        flops = StepCosts.trace(model, x, mask).full / len(y)
        if repeats == 0:
            return cls(flops, None)
        twin = copy.deepcopy(model)
        with torch.random.fork_rng(), Scope(twin, everything(model)).thawed() as scope:
            stepper = optimizer(list(scope.parameters.values()))

            def step() -> float:
                _synchronise(x.device)
                begin = time.perf_counter()
                stepper.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(twin(x, mask), y).backward()
                stepper.step()
                _synchronise(x.device)
                return time.perf_counter() - begin

            step()
            seconds = statistics.median(step() for _ in range(repeats))
        return cls(flops, seconds / len(y))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
