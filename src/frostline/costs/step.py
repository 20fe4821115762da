"""What a training step of another scope would cost, without training it.

With F_l the forward operations of weighted layer l and m the shallowest thawed layer, a chain of layers costs

    C_step = sum_l F_l (1 + [l thawed] + [l > m])

With branches, 'after m' is a question of what the gradient reaches. So the step is run dry, on tensors with shapes
and no values, and counted: exact for any model and any thawed set, and nothing is computed.
"""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from frostline.flops import count_flops
from frostline.scope import Scope, everything


def step_flops(model: nn.Module, x: Tensor, mask: Tensor | None, thawed: frozenset[str]) -> int:
    """Return the operations of one forward and backward pass on x with exactly `thawed` training."""
    meta = torch.device("meta")
    with (
        Scope(model, thawed).thawed(),
        meta,
    ):  # the device as a context: what the model itself creates has no values either
        weights = {n: p.detach().to(meta).requires_grad_(n in thawed) for n, p in model.named_parameters()}
        weights |= {n: b.to(meta) for n, b in model.named_buffers()}
        inputs = (x.to(meta), None if mask is None else mask.to(meta))
        return count_flops(lambda: functional_call(model, weights, inputs).sum().backward())


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
        """Count one full step dry, and time `repeats` real ones (after one to warm up) on a throw-away copy."""
        names = everything(model)
        flops = step_flops(model, x, mask, names) / len(y)
        if repeats == 0:
            return cls(flops, None)
        twin = copy.deepcopy(model)
        with torch.random.fork_rng(), Scope(twin, names).thawed() as scope:
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
