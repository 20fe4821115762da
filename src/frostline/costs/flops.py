"""Floating-point operations as executed: torch's formulas, and those that it lacks or gets wrong.

A multiply-add is two operations. Elementwise work (activations, optimizers, penalties) is not counted, as is the
convention of every counter; it is in the seconds.
"""

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


def _convolution(x, w, bias, stride, padding, dilation, transposed, output_padding, groups, *, out_val=None, **_):
    """Count one pass of a convolution: every output (input, if transposed) pixel meets the whole filter."""
    return _convolution_pass(x, w, out_val, transposed)


def _convolution_pass(x, w, out, transposed) -> int:
    # w is [out, in / groups, *k], or [in, out / groups, *k] if transposed: either way prod(w) is the work per pixel.
    pixels = (x if transposed else out).shape[2:]
    return 2 * x.shape[0] * prod(pixels) * prod(w.shape)


def _convolution_backward(
    grad,
    x,
    w,
    bias_sizes,
    stride,
    padding,
    dilation,
    transposed,
    output_padding,
    groups,
    output_mask,
    *,
    out_val=None,
    **_,
):
    """Count one forward's worth for each of the two gradients asked for.

    torch 2.13 forgets the groups in the weight gradient: a depthwise convolution of 8 channels comes out 8 times too dear.
    """
    return _convolution_pass(x, w, grad, transposed) * (int(output_mask[0]) + int(output_mask[1]))


def _attention_cpu(q, k, v, *args, out_val=None, **_):
    """Count the two matrix products of attention; torch has no formula for the CPU's kernel and counts 0."""
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _attention_cpu_backward(grad, q, k, v, *args, out_val=None, **_):
    """Count five products: the four gradients and the scores once more, which flash attention does not keep."""
    return sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)


OWN_FORMULAS: dict[Any, Callable[..., int]] = {
    aten.convolution: _convolution,
    aten.convolution_backward: _convolution_backward,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_cpu,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_cpu_backward,
}


@lru_cache(None)
def _formula(operator: Any) -> Callable[..., int] | None:
    packet = operator.overloadpacket
    name = str(packet).split(".")[-1]
    if operator.namespace == "aten" and name.endswith("_") and hasattr(aten, name[:-1]):  # addmm_ works as addmm does
        packet = getattr(aten, name[:-1])
    return OWN_FORMULAS.get(packet) or flop_registry.get(packet)


@lru_cache(None)
def _composite(operator: Any) -> bool:
    """Tell whether torch defines the operator by others: in inference mode it comes as it is."""
    if operator.namespace == "prim":  # a question about a tensor
        return False
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return key in operator.py_kernels or torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), key)


class FlopCounter(TorchDispatchMode):
    """Count what runs inside the `with` block; read `total` afterwards.

    torch's own FlopCounterMode also keeps a tree of modules and tries to take every operator apart: it made EWC's
    estimate of a small net 2.5 times as long, on the bill; this one makes it 1.5 times as long.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._fastpath: list[bool] = []

    def __enter__(self) -> "FlopCounter":
        # The fused inference kernel of nn.TransformerEncoderLayer is opaque to the counter; the same products run without it.
        self._fastpath.append(torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        return super().__enter__()

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        torch.backends.mha.set_fastpath_enabled(self._fastpath.pop())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator, and add its operations."""
        kwargs = kwargs or {}
        formula = _formula(func)
        if formula is None and _composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


def count_flops(work: Callable[[], Any]) -> int:
    """Return the operations that calling `work` executes, forward and backward."""
    with FlopCounter() as counter:
        work()
    return counter.total
