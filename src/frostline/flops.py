"""Floating-point operations as executed: torch's counter, with the formulas that it lacks or gets wrong.

A multiply-add is two operations. Elementwise work (activations, optimizers, penalties) is not counted, as is the
convention of every counter; it is in the seconds.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

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


def _raw(formula: Callable[..., int]) -> Callable[..., int]:
    """Mark a formula as one that reads tensors, not shapes: the counter's own protocol."""
    formula._get_raw = True  # type: ignore[attr-defined]
    return formula


FORMULAS: dict[Any, Callable[..., int]] = {
    aten.convolution: _raw(_convolution),
    aten.convolution_backward: _raw(_convolution_backward),
    aten._scaled_dot_product_flash_attention_for_cpu: _raw(_attention_cpu),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _raw(_attention_cpu_backward),
}


class FlopCounter:
    """Count what runs inside the `with` block; read `total` afterwards."""

    def __init__(self) -> None:
        self._mode = FlopCounterMode(display=False, custom_mapping=FORMULAS)
        self._fastpath = True

    def __enter__(self) -> "FlopCounter":
        # The fused inference kernel of nn.TransformerEncoderLayer is opaque to the counter; the same products run without it.
        self._fastpath = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        self._mode.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._mode.__exit__(*exc)
        torch.backends.mha.set_fastpath_enabled(self._fastpath)

    @property
    def total(self) -> int:
        """Operations counted so far."""
        return int(self._mode.get_total_flops())


def count_flops(work: Callable[[], Any]) -> int:
    """Return the operations that calling `work` executes, forward and backward."""
    with FlopCounter() as counter:
        work()
    return counter.total
