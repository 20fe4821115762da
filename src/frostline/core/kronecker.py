"""Curvature of linear layers as Kronecker products: two small matrices in the place of one that nobody could store."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from frostline.core.examples import dense_layers, dense_pairs
from frostline.core.importance import labelled, likelihood
from frostline.core.scope import evaluating
from frostline.core.structure import parameter_of
from frostline.core.types import Batch, Task

Factors = list[Tensor]  # G [out, out] and A [in, in], or [in + 1, in + 1] where the layer has a bias


def curvature(
    model: nn.Module, task: Task, batches: Iterable[Batch], labels: str, generator: torch.Generator | None
) -> dict[str, Factors]:
    """Return G = E[g g^T] and A = E[a a^T] of each linear layer that sees one vector an example, in eval mode.

    a: what the layer is given, with a 1 for its bias; g: the gradient of the negative log-likelihood at its output. Their
    Kronecker product stands for the layer's Fisher information (Martens & Grosse 2015, arXiv 1503.05671). labels: see
    importance.squared_gradients.
    """
    found: dict[str, Factors] = {}
    layers, measure, count = dense_layers(model), likelihood(task), 0
    with evaluating(model):
        for batch, first, y, mask, weight in labelled(model, task, batches, labels, generator):
            count += len(batch) if first else 0
            for name, (a, g) in dense_pairs(model, measure, layers, batch.x, y, mask).items():
                a = _with_one(model, name, a)
                if name not in found:
                    found[name] = [g.new_zeros(g.shape[1], g.shape[1]), a.new_zeros(a.shape[1], a.shape[1])]
                found[name][0] += g.T @ (g if weight is None else weight[:, None] * g)
                if first:
                    found[name][1] += a.T @ a
    return {name: [factor / count for factor in own] for name, own in found.items()}


def _with_one(model: nn.Module, name: str, a: Tensor) -> Tensor:
    return a if model.get_submodule(name).bias is None else torch.cat((a, torch.ones_like(a[:, :1])), 1)


def rows(model: nn.Module, name: str) -> Tensor:
    """Return a layer's weights with its biases as the last column, differentiable."""
    layer = model.get_submodule(name)
    weight, bias = layer.get_parameter("weight"), layer.bias
    return weight if bias is None else torch.cat((weight, layer.get_parameter("bias")[:, None]), 1)


def parameters_of(model: nn.Module, name: str) -> list[str]:
    """Return the names of a layer's parameters."""
    return [parameter_of(name, kind) for kind, _ in model.get_submodule(name).named_parameters()]
