"""Batch-norm in channels-last order whose backward pass does not stumble over an uneven number of channels.

torch's CPU kernel for it goes pixel by pixel in whole vectors: where the channels are no multiple of 16 (slim_resnet18's
first blocks have 20), what is left over costs several times the rest. Here whole rows of pixels are added up and scaled at
once: the same sums in another order. `benchmarks/speed/options.py --parts gradients` measures it.
"""

from typing import Any

import torch
from torch import Tensor, nn

# From docs/performance.md: with more channels than these, or fewer pixels in all images of the batch, torch's is faster.
VECTOR, CHANNELS, PIXELS = 16, 32, 4096


class BatchNormFunction(torch.autograd.Function):
    """Batch-norm in training: torch's forward pass, running statistics included; returns the result, mean and 1 / deviation."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, momentum: float, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_batch_norm(x, weight, bias, mean, variance, True, momentum, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, *_, ctx.eps = inputs
        _, mean, scale = output
        ctx.mark_non_differentiable(mean, scale)
        ctx.save_for_backward(x, weight, mean, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, x, (weight, mean, scale) = grads[0], ctx.saved_tensors[0], ctx.saved_tensors[1:]
        last = torch.channels_last
        # Gradients of gradients (and torch.func) need torch's own operator, which has them.
        if torch.is_grad_enabled() or not (
            x.is_contiguous(memory_format=last) and grad.is_contiguous(memory_format=last)
        ):
            mask = list(ctx.needs_input_grad[:3])
            found = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, None, None, mean, scale, True, ctx.eps, mask
            )
        else:
            found = _backward(grad, x, weight, mean, scale, ctx.needs_input_grad[0])
        return *found, None, None, None, None


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, wanted: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    batch, channels, height, width = x.shape
    rows, arriving = (t.permute(0, 2, 3, 1).view(batch * height, width * channels) for t in (x, grad))
    of_bias = arriving.sum(0).view(width, channels).sum(0)
    of_weight = ((arriving * rows).sum(0).view(width, channels).sum(0) - mean * of_bias) * scale
    if not wanted:
        return None, of_weight, of_bias
    # weight * scale * (grad - mean of grad - normalized x * mean of (grad * normalized x)), as a * grad + b * x + c;
    # a mean far from 0 rounds as much as in torch's forward pass, which is of that form as well
    a = weight * scale
    b = -a * scale * of_weight / (batch * height * width)
    c = -a * of_bias / (batch * height * width) - b * mean
    out = torch.addcmul(c.repeat(width), arriving, a.repeat(width)).addcmul_(rows, b.repeat(width))
    return out.view(batch, height, width, channels).permute(0, 3, 1, 2), of_weight, of_bias


class UnevenBatchNorm2d(nn.BatchNorm2d):
    """An nn.BatchNorm2d with this backward pass, where it pays: training in float32, with enough pixels."""

    gains_on = ("AVX2", "AVX512")

    @staticmethod
    def suits(norm: Any) -> bool:
        """Tell whether this batch-norm has few channels, some left over, and weights and averages to go with them."""
        uneven = norm.num_features < CHANNELS and norm.num_features % VECTOR != 0
        return uneven and norm.affine and norm.track_running_stats and norm.momentum is not None

    def forward(self, input: Tensor) -> Tensor:
        """Return what nn.BatchNorm2d returns."""
        if (
            torch.compiler.is_compiling()
            or not (self.training and torch.is_grad_enabled())
            or input.ndim != 4
            or input.dtype != torch.float32
            or input.numel() < PIXELS * self.num_features
        ):
            return super().forward(input)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return BatchNormFunction.apply(  # type: ignore[return-value]
            input, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps
        )[0]
