"""Linear layers whose weights are constants of 4 or 8 bits, for adapters to train beside."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError

KINDS = ("nf4", "int8")
BLOCK = 64  # weights that share a scale; QLoRA's


class Quantised(nn.Linear):
    """A linear layer with packed weights, unpacked by bitsandbytes for each product and forgotten after it.

    nf4: Dettmers et al. 2023 (arXiv 2305.14314), blocks of 64, their scales in float32 (not quantised again, as the paper
    offers: half a bit a weight more). int8: a scale for each output. Weights are buffers, not parameters, and in no
    checkpoint: they are those of the model's folder.
    """

    packed = True

    def __init__(self, layer: nn.Linear, kind: str):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias, self.kind = (
            layer.in_features,
            layer.out_features,
            layer.bias,
            kind,
        )
        packed, scale = _pack(layer.weight.detach(), kind)
        self.register_buffer("weight", packed, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self.weight, self.scale, self.bias, self.kind, self.out_features)  # type: ignore[return-value]


class _Product(torch.autograd.Function):
    """x W' + b, whose gradient unpacks W again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, kind: str, out: int) -> Tensor:
        ctx.save_for_backward(packed, scale)
        ctx.kind, ctx.out, ctx.biased = kind, out, bias is not None
        return nn.functional.linear(x, _unpack(packed, scale, kind, (out, x.shape[-1]), x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        packed, scale = ctx.saved_tensors
        into = packed.numel() * (2 if ctx.kind == "nf4" else 1) // ctx.out
        x = grad @ _unpack(packed, scale, ctx.kind, (ctx.out, into), grad.dtype) if ctx.needs_input_grad[0] else None
        bias = grad.flatten(0, -2).sum(0) if ctx.biased and ctx.needs_input_grad[3] else None
        return x, None, None, bias, None, None


def quantise(net: nn.Module, kind: str, but: nn.Module | None) -> None:
    """Put packed layers in place of all linear layers of `net` but one, in place; what else there is becomes float32."""
    if find_spec("bitsandbytes") is None:
        raise UsageError(f"model.quantised={kind} needs bitsandbytes: pip install 'frostline[quantised]'.")
    found = [(m, n, layer) for m in net.modules() for n, layer in m.named_children() if type(layer) is nn.Linear]
    found = [(parent, name, layer) for parent, name, layer in found if layer is not but]
    if not found:
        raise UsageError(f"model.quantised={kind}: the model has no linear layers besides its head. Expected null.")
    for parent, name, layer in found:
        setattr(parent, name, Quantised(layer, kind))
    net.float()


def _pack(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    from bitsandbytes import functional

    if kind == "nf4":
        packed, state = functional.quantize_4bit(weight.float().contiguous(), blocksize=BLOCK, quant_type="nf4")
        return packed, state.absmax
    scale = weight.float().abs().amax(1).clamp(min=1e-30) / 127
    return (weight.float() / scale[:, None]).round().to(torch.int8), scale


def _unpack(packed: Tensor, scale: Tensor, kind: str, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    if kind == "int8":
        return (packed * scale[:, None]).to(dtype)
    return torch.ops.bitsandbytes.dequantize_4bit.default(packed, scale, BLOCK, "nf4", shape, dtype)
