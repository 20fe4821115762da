"""Weight gradients of convolutions as one matrix product, where a CPU's own kernel for them is far from what it can do.

On a CPU with AVX2 oneDNN's weight gradient of a convolution with many channels and few pixels runs at half the speed of the
forward pass. Written as gradients times patches (im2col; Chellapilla et al. 2006) it is as fast as matrices are multiplied:
the same products, added up in another order. `benchmarks/speed/options.py --parts gradients` measures it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

# Where it pays, as docs/performance.md measured it: many channels, so that the product is large, and few pixels, so
# that the patches (kernel area x input) are small beside it. With AVX-512 torch's own kernel is as fast or faster.
CHANNELS, PIXELS = 256, 49
CHUNK = 1 << 22  # numbers of patches at a time, 16 MiB: more falls out of the caches, and comes as fresh pages


class Im2colConvolution(torch.autograd.Function):
    """A 2-d convolution without groups or dilation whose weight gradient is a matrix product."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        of_input, of_weight, of_bias = ctx.needs_input_grad[:3]
        return (
            conv2d_input(x.shape, weight, grad, ctx.stride, ctx.padding) if of_input else None,
            _weight_gradient(x, weight, grad, ctx.stride, ctx.padding) if of_weight else None,
            grad.sum((0, 2, 3)) if of_bias else None,
            None,
            None,
        )


def _weight_gradient(x: Tensor, weight: Tensor, grad: Tensor, stride: Any, padding: Any) -> Tensor:
    outputs, channels, *kernel = weight.shape
    arriving = grad.permute(0, 2, 3, 1)  # [B, H, W, outputs]
    images = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    patches = images.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])  # [B, H, W, channels, *kernel]
    patches = patches.permute(0, 1, 2, 4, 5, 3)
    some = max(1, CHUNK // patches[0].numel())
    product = None
    for g, part in zip(arriving.split(some), patches.split(some), strict=True):
        g, part = g.reshape(-1, outputs).t(), part.reshape(-1, weight[0].numel())
        product = g @ part if product is None else product.addmm(g, part)
    assert product is not None
    return product.view(outputs, *kernel, channels).permute(0, 3, 1, 2)


class Im2colConv2d(nn.Conv2d):
    """An nn.Conv2d that takes this way where it pays: in float32, with few pixels, with its weight in training."""

    gains_on = ("AVX2",)

    @staticmethod
    def suits(conv: Any) -> bool:
        """Tell whether this convolution, as torch built it, is wide enough, and of a kind that is written here."""
        plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        return plain and not isinstance(conv.padding, str) and conv.in_channels >= CHANNELS

    def forward(self, input: Tensor) -> Tensor:
        """Return what nn.Conv2d returns."""
        if (
            not torch.compiler.is_compiling()
            and torch.is_grad_enabled()
            and self.weight.requires_grad
            and input.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled(input.device.type)
            and input.ndim == 4
            and self._pixels(input) <= PIXELS
        ):
            return Im2colConvolution.apply(input, self.weight, self.bias, self.stride, self.padding)  # type: ignore[return-value]
        return super().forward(input)

    def _pixels(self, x: Tensor) -> int:
        height, width = (
            (size + 2 * int(p) - k) // s + 1
            for size, p, k, s in zip(x.shape[2:], self.padding, self.kernel_size, self.stride, strict=True)
        )
        return height * width
