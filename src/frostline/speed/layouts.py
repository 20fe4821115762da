"""The same mathematics, computed faster: layouts and kernels whose `auto` follows the figures of docs/performance.md.

Each choice depends on the configuration and the device alone, never on a clock: the same run takes the same kernels again,
which is what makes its numbers repeatable bit for bit.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from frostline.core.checks import UsageError
from frostline.speed.batchnorm import UnevenBatchNorm2d
from frostline.speed.im2col import Im2colConv2d

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
KERNELS: dict[type[nn.Module], Any] = {nn.Conv2d: Im2colConv2d, nn.BatchNorm2d: UnevenBatchNorm2d}


def with_layout(model: nn.Module, mode: str) -> nn.Module:
    """Return the model with 4-d weights in channels-last order, the one convolutions are fastest in ('auto': if it has any)."""
    wanted = mode == "on" or (mode == "auto" and any(isinstance(m, CONVOLUTIONS) for m in model.modules()))
    return model.to(memory_format=torch.channels_last) if wanted else model  # type: ignore[call-overload]


def with_kernels(model: nn.Module, mode: str, device: torch.device) -> nn.Module:
    """Return the model with own backward passes where torch's CPU kernels are slow.

    'auto': each on the processors that it was measured to gain on (its `gains_on`, as torch names their capability), so the
    same machine always takes the same. Such a layer changes its class, not its place: weights, name and hooks stay, and so
    does the forward pass.
    """
    processor = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else ""
    if mode == "off":
        return model
    for module in model.modules():
        own = KERNELS.get(type(module))
        if own is not None and own.suits(module) and (mode == "on" or processor in own.gains_on):
            module.__class__ = own
    return model


def with_fused(optimizer: Callable[..., torch.optim.Optimizer], mode: str) -> Callable[..., torch.optim.Optimizer]:
    """Return the factory with torch's one-kernel update switched on.

    'auto': where the optimizer has such a kernel, keeps state, and the configuration asks for no other implementation;
    plain SGD has nothing to fuse and stays bit for bit what a loop over the parameters does.
    """
    if mode == "off":
        return optimizer
    target = optimizer.func if isinstance(optimizer, functools.partial) else optimizer
    given: dict[str, Any] = optimizer.keywords if isinstance(optimizer, functools.partial) else {}
    offered = "fused" in inspect.signature(target).parameters
    if mode == "on":
        if not offered:
            raise UsageError(
                f"trainer.fused=on: {getattr(target, '__name__', target)} has no fused kernel. Use auto or off."
            )
        return functools.partial(optimizer, fused=True)
    stateless = target is torch.optim.SGD and not given.get("momentum")
    if not offered or stateless or given.get("foreach") or given.get("fused") is not None:
        return optimizer
    return functools.partial(optimizer, fused=True)
