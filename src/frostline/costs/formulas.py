"""How many operations torch's operators take, where torch has no formula of its own or a wrong one; a multiply-add is two."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.modules.linear_cross_entropy  # registers its operators
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

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


def _mkldnn_rnn(x, w_input, w_hidden, *args, out_val=None, **_):
    """Count a layer of oneDNN's LSTM: every token meets the weights of the input and those of the state."""
    return 2 * prod(x.shape[:2]) * (w_input.numel() + w_hidden.numel())


def _mkldnn_rnn_backward(x, w_input, w_hidden, *args, out_val=None, **_):
    """Count all gradients, that of the input too, since the kernel computes them whether anybody asks or not."""
    return 2 * _mkldnn_rnn(x, w_input, w_hidden)


def _cudnn_rnn(x, weights, *args, out_val=None, **_):
    """Count every token (packed or not) with every matrix of every layer and direction."""
    tokens = x.shape[0] if x.ndim == 2 else prod(x.shape[:2])
    return 2 * tokens * sum(w.numel() for w in weights if w.ndim > 1)


def _cudnn_rnn_backward(x, weights, *args, out_val=None, **_):
    """Count the gradients of the data, and those of the weights where they are asked for (the last of output_mask)."""
    mask = next(a for a in reversed(args) if isinstance(a, list | tuple) and len(a) == 4)
    return (1 + int(mask[-1])) * _cudnn_rnn(x, weights)


def _trilinear(a, b, c, expand_a, expand_b, expand_c, *args, out_val=None, **_):
    """Count one multiply-add for each of the triples that are summed (nn.Bilinear)."""
    shapes = []
    for tensor, places in ((a, expand_a), (b, expand_b), (c, expand_c)):
        shape = list(tensor.shape)
        for place in sorted(places):
            shape.insert(place, 1)
        shapes.append(shape)
    return 2 * prod(torch.broadcast_shapes(*shapes))


def _products(*which):
    """Count a multiply-add for each element of the largest operand: a matrix and a vector, two vectors."""
    return lambda *args, out_val=None, **_: 2 * max(args[i].numel() for i in which)


def _outer(into, a, b, *args, out_val=None, **_):
    return 2 * a.numel() * b.numel()


def _addbmm(into, a, b, *args, out_val=None, **_):
    return 2 * a.numel() * b.shape[2]


def _square(factor):
    """Count factor * n^3 for each n x n matrix, as LAPACK's own documents do (Anderson et al. 1999, appendix C)."""
    return lambda a, *args, out_val=None, **_: round(factor * prod(a.shape[:-2]) * a.shape[-1] ** 3)


def _solve(a, b, *args, out_val=None, **_):
    """Count the factors of A, 2/3 n^3, and two triangular solves for each right side."""
    return _square(2 / 3)(a) + 2 * a.shape[-1] * b.numel()


def _cholesky_solve(b, factor, *args, out_val=None, **_):
    """Count two triangular solves for each right side."""
    return 2 * factor.shape[-1] * b.numel()


def _svd(a, full_matrices=False, compute_uv=True, *args, out_val=None, **_):
    """Count 6 m n^2 + 20 n^3 with both sides' vectors, 2 m n^2 + 2 n^3 for the values alone (Golub & Van Loan, 8.6)."""
    m, n = max(a.shape[-2:]), min(a.shape[-2:])
    return prod(a.shape[:-2]) * (6 * m * n**2 + 20 * n**3 if compute_uv else 2 * m * n**2 + 2 * n**3)


def _qr(a, *args, out_val=None, **_):
    """Count the factors and the columns of Q: 4 m n^2 - 4/3 n^3."""
    m, n = max(a.shape[-2:]), min(a.shape[-2:])
    return round(prod(a.shape[:-2]) * (4 * m * n**2 - 4 / 3 * n**3))


def _pinv(a, *args, hermitian=False, out_val=None, **_):
    """Count the eigenvalues or the singular values, and the product of the vectors."""
    m, n = max(a.shape[-2:]), min(a.shape[-2:])
    return (_square(9)(a) if hermitian else _svd(a)) + 2 * prod(a.shape[:-2]) * m * n**2


def _linear_cross_entropy(x, weight, *args, out_val=None, **_):
    """Count a loss in pieces: the logits once, and in the same pass the gradients that are wanted."""
    wanted = args[-3:-1]  # of the input and of the weight; the last is that of the bias, a sum
    return 2 * x.numel() * weight.shape[0] * (1 + sum(map(bool, wanted)))


OWN_FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.torch_nn._linear_cross_entropy_batch_chunked: _linear_cross_entropy,
    aten.convolution: _convolution,
    aten.convolution_backward: _convolution_backward,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_cpu,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_cpu_backward,
    aten.mkldnn_rnn_layer: _mkldnn_rnn,
    aten.mkldnn_rnn_layer_backward: _mkldnn_rnn_backward,
    aten._cudnn_rnn: _cudnn_rnn,
    aten._cudnn_rnn_backward: _cudnn_rnn_backward,
    aten.miopen_rnn: _cudnn_rnn,
    aten.miopen_rnn_backward: _cudnn_rnn_backward,
    aten._trilinear: _trilinear,
    aten.mv: _products(0),
    aten.addmv: _products(1),
    aten.dot: _products(0),
    aten.vdot: _products(0),
    aten.addr: _outer,
    aten.addbmm: _addbmm,
    aten.linalg_cholesky_ex: _square(1 / 3),
    aten.cholesky_solve: _cholesky_solve,
    aten._linalg_solve_ex: _solve,
    aten.linalg_inv_ex: _square(2),
    aten._linalg_eigh: _square(9),  # with vectors (Golub & Van Loan)
    aten._linalg_svd: _svd,
    aten.linalg_qr: _qr,
    aten.linalg_pinv: _pinv,
}
