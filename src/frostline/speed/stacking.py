"""S models as one: parameters on a leading axis, so that one pass trains S seeds that never mix.

The models keep their own parameters, as views of the stacked ones: whatever looks at a single model (a selector, a Fisher
estimate, a checkpoint) goes on as if it were alone. Common layers run natively on [S, B, ...]; any other
module goes through torch.func.vmap, and one that draws random numbers runs once for each seed, with that seed's own.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from frostline.core.structure import POINTWISE, piped
from frostline.models.classifier import Classifier
from frostline.speed.batchnorm import UnevenBatchNorm2d
from frostline.speed.im2col import Im2colConv2d

Draws = Sequence[Callable[[], AbstractContextManager[None]]]  # put each seed's own random numbers in force
Function = Callable[[Tensor], Tensor]

POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def pays(model: nn.Module, device: torch.device) -> bool:
    """Tell whether several such models are faster as one: on a CPU only dense nets are, since a convolution fills it alone."""
    if type(model) is not Classifier:
        return False
    kinds = (nn.Sequential, nn.Linear, nn.Flatten, nn.LayerNorm, nn.Dropout, *POINTWISE)
    return device.type == "cuda" or all(type(m) in (Classifier, *kinds) for m in model.modules())


class Stack:
    """The parameters of S equal models as tensors [S, ...], of which the models' own are views from here on.

    names: the parameters that train, those of the open scope.
    """

    def __init__(self, models: Sequence[nn.Module], names: frozenset[str], draws: Draws):
        self.models, self.draws = list(models), draws
        self.direct = False  # whether gradients reach the models' own parameters in the forward pass itself
        self.parameters: dict[str, Tensor] = {}
        self._at: dict[int, Tensor] = {}  # by id of the first model's own
        self._own: dict[str, list[nn.Parameter]] = {}  # of those that train
        for named in zip(*(m.named_parameters() for m in models), strict=True):
            name, own = named[0][0], [p for _, p in named]
            stacked = self._gather(own)
            if name in names:
                self.parameters[name], self._own[name] = stacked.requires_grad_(), own
        for buffers in zip(*(m.buffers() for m in models), strict=True):
            self._gather(buffers)

    def _gather(self, own: Sequence[Tensor]) -> Tensor:
        first = own[0]
        stacked = torch.empty_strided(  # each keeps its own layout
            (len(own), *first.shape), (_extent(first), *first.stride()), dtype=first.dtype, device=first.device
        )
        for place, p in enumerate(own):
            stacked[place] = p.detach()
            p.data = stacked[place]
        self._at[id(first)] = stacked
        return stacked

    def function(self, modules: Sequence[nn.Module]) -> Function:
        """Return what S equal modules compute as one function of [S, B, ...]; decided once, not at every call."""
        kind, first = type(modules[0]), modules[0]
        if kind is nn.Sequential:
            steps = [self.function(parts) for parts in zip(*(m.children() for m in modules), strict=True)]
            return lambda x: piped(steps, x)
        if kind is nn.Linear:
            return self._linear(first)
        if kind in POINTWISE:
            return first
        if kind is nn.Flatten and first.start_dim == 1 and first.end_dim == -1:
            return lambda x: x.flatten(2)
        if kind in POOLING:
            return lambda x: first(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        if kind is nn.LayerNorm and first.elementwise_affine:
            return self._layer_norm(first)
        if kind is nn.Dropout and (first.p == 0 or not first.training):
            return lambda x: x
        if kind in (nn.Conv2d, Im2colConv2d) and first.padding_mode == "zeros":
            return self._conv(first)
        norm = kind in (nn.BatchNorm2d, UnevenBatchNorm2d)
        if norm and first.affine and first.track_running_stats and first.momentum is not None:
            return self._batch_norm(modules)
        random = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p and m.training for m in first.modules())
        return self._each(modules) if random else self._vmapped(first)

    def classifier(self, line: int = 0) -> Function:
        """Return what S Classifiers make of what came out of their first `line` stages: raw logits [S, B, C]."""
        stages = zip(*(model.stages()[line:] for model in self.models), strict=True)  # type: ignore[operator]
        body = [self.function(modules) for modules in stages]
        head = self.function([model.head for model in self.models])  # type: ignore[arg-type]
        return lambda x: head(piped(body, x))

    def collect_gradients(self) -> None:
        """Add to the stacked gradients what reached the models' own parameters, and let those see the sum."""
        for name, stacked in self.parameters.items():
            own = [p.grad for p in self._own[name]]
            if any(g is not None for g in own):
                direct = torch.stack(
                    [torch.zeros_like(p) if g is None else g for p, g in zip(self._own[name], own, strict=True)]
                )
                stacked.grad = direct if stacked.grad is None else stacked.grad.add_(direct)

    def drop_gradients(self) -> None:
        """Forget all gradients, the models' own included."""
        for name, stacked in self.parameters.items():
            stacked.grad = None
            for p in self._own[name]:
                p.grad = None

    def _linear(self, first: Any) -> Function:
        weight = self._at[id(first.weight)]
        bias = None if first.bias is None else self._at[id(first.bias)].unsqueeze(2)

        def run(x: Tensor) -> Tensor:
            # weight @ x.mT and not x @ weight.mT: autograd would hand out the weights' gradients transposed, and copy each
            rows = x.flatten(1, -2).mT
            out = torch.bmm(weight, rows) if bias is None else torch.baddbmm(bias, weight, rows)
            return out.mT.unflatten(1, x.shape[1:-1])

        return run

    def _conv(self, first: Any) -> Function:
        weight = self._at[id(first.weight)].flatten(0, 1)
        bias = None if first.bias is None else self._at[id(first.bias)].flatten()

        def run(x: Tensor) -> Tensor:
            side_by_side = x.transpose(0, 1).flatten(1, 2)  # [B, S * C, H, W]: a group of channels a seed
            out = F.conv2d(
                side_by_side, weight, bias, first.stride, first.padding, first.dilation, len(x) * first.groups
            )
            return out.unflatten(1, (len(x), -1)).transpose(0, 1)

        return run

    def _batch_norm(self, modules: Sequence[Any]) -> Function:
        first = modules[0]
        weight, bias, mean, var = (
            self._at[id(t)].flatten() for t in (first.weight, first.bias, first.running_mean, first.running_var)
        )

        def run(x: Tensor) -> Tensor:
            if first.training:
                for module in modules:
                    module.num_batches_tracked += 1
            side_by_side = x.transpose(0, 1).flatten(1, 2)
            out = F.batch_norm(side_by_side, mean, var, weight, bias, first.training, first.momentum, first.eps)
            return out.unflatten(1, (len(x), -1)).transpose(0, 1)

        return run

    def _vmapped(self, first: nn.Module) -> Function:
        values = {name: self._at[id(t)] for name, t in (*first.named_parameters(), *first.named_buffers())}
        over_seeds = vmap(lambda values, x: functional_call(first, values, (x,)))

        def run(x: Tensor) -> Tensor:
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no rule for vmap
                return over_seeds(values, x)

        return run

    def _layer_norm(self, first: Any) -> Function:
        weight = self._at[id(first.weight)]
        bias = None if first.bias is None else self._at[id(first.bias)]

        def run(x: Tensor) -> Tensor:
            shape = (len(x), *(1,) * (x.ndim - 1 - (weight.ndim - 1)), *weight.shape[1:])
            out = F.layer_norm(x, first.normalized_shape, eps=first.eps) * weight.view(shape)
            return out if bias is None else out + bias.view(shape)

        return run

    def _each(self, modules: Sequence[nn.Module]) -> Function:
        self.direct = self.direct or any(True for _ in modules[0].parameters())

        def run(x: Tensor) -> Tensor:
            outputs = []
            for s, module in enumerate(modules):
                with self.draws[s]():
                    outputs.append(module(x[s].contiguous()))  # random numbers fill memory in its order
            return torch.stack(outputs)

        return run


def _extent(t: Tensor) -> int:
    """Return how many elements apart two tensors of this shape and these strides must begin."""
    return 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) if t.numel() else 0
