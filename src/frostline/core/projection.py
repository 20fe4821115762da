"""Gradients that leave old knowledge alone: cones and subspaces that a gradient is projected to."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.scope import evaluating
from frostline.core.structure import parameter_of
from frostline.core.types import Batch


def flat(gradients: Mapping[str, Tensor | None], like: Mapping[str, Tensor]) -> Tensor:
    """Return gradients as one vector in the order of `like`, zeros where there is none."""
    found = [gradients.get(name) for name in like]
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, like.values(), strict=True)]
    )


def unflat(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the vector as gradients by name again."""
    parts = vector.split([p.numel() for p in like.values()])
    return {name: part.view_as(p) for (name, p), part in zip(like.items(), parts, strict=True)}


def into_cone(gradient: Tensor, others: Tensor, margin: float = 0.0, ridge: float = 1e-3) -> Tensor:
    """Return the vector nearest to `gradient` [P] that has no negative product with any of `others` [K, P].

    Lopez-Paz & Ranzato 2017, arXiv 1706.08840: gradient + others' v, where v >= margin minimises
    v' (others others' + ridge I) v / 2 + (others gradient)' v. That is a least squares problem with a bound, which scipy
    solves exactly. margin above 0 favours the others further, as in the authors' code; where nothing points against them
    the gradient stays as it is.
    """
    from scipy.optimize import nnls

    gram = (others @ others.T).double().cpu().numpy() + ridge * np.eye(len(others))
    products = (others @ gradient).double().cpu().numpy()
    v = np.zeros(len(others))
    if (products < 0).any():
        lower = np.linalg.cholesky(gram)
        v = margin + nnls(lower.T, -np.linalg.solve(lower, products + gram @ np.full(len(others), margin)))[0]
    return gradient + torch.from_numpy(v).to(others) @ others


def away_from(gradient: Tensor, other: Tensor) -> Tensor:
    """Return `gradient` without what of it points against `other` (Chaudhry et al. 2019, arXiv 1812.00420)."""
    product, length = gradient @ other, other @ other
    against = torch.where(length > 0, product.clamp(max=0) / length.clamp(min=1e-30), 0.0)
    return gradient - against * other


def orthonormal(vectors: Tensor, tolerance: float = 1e-5) -> Tensor:
    """Return an orthonormal basis of what vectors [K, P] span, and zeros in place of those that add next to nothing."""
    if not vectors.numel():
        return vectors.new_zeros(0, vectors.shape[-1])
    _, s, v = torch.linalg.svd(vectors, full_matrices=False)
    return v * (s > tolerance * s.max())[:, None]  # as many rows for every seed: their steps are priced alike


def projected_layers(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the layers whose gradient is a product with their input: linear ones and plain convolutions."""
    return {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1 and m.padding_mode == "zeros")
    }


def layer_inputs(model: nn.Module, batches: Iterable[Batch]) -> Iterator[dict[str, Tensor]]:
    """Yield, for each batch, what each layer's weights were multiplied with, [N, D], with a last column of ones for a bias.

    A convolution's are all patches that it saw.
    """
    found: dict[str, Tensor] = {}

    def look(name: str, layer: Any) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            if isinstance(module, nn.Conv2d):
                x = F.unfold(x, module.kernel_size, module.dilation, _padding(module), module.stride).transpose(1, 2)
            x = x.flatten(0, -2)
            found[name] = x if module.bias is None else torch.cat([x, torch.ones_like(x[:, :1])], 1)

        return layer.register_forward_pre_hook(hook)

    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(evaluating(model))
        for name, layer in projected_layers(model).items():
            stack.callback(look(name, layer).remove)
        for batch in batches:
            model(batch.x)
            yield dict(found)


def _padding(layer: nn.Conv2d) -> Any:
    if layer.padding == "same":
        return tuple((k - 1) * d // 2 for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
    return 0 if layer.padding == "valid" else layer.padding


def project_layer(name: str, grads: dict[str, Tensor], projection: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a layer's weight and bias, seen as one matrix, times a projection [D, D] of its inputs."""
    weight, bias = (grads.get(parameter_of(name, part)) for part in ("weight", "bias"))
    if weight is None:  # frozen, though its bias may train
        return {} if bias is None else {parameter_of(name, "bias"): bias * projection[-1, -1]}
    wide = weight.flatten(1)
    has_bias = projection.shape[0] > wide.shape[1]
    one = torch.zeros_like(wide[:, :1]) if bias is None else bias[:, None]
    out = (torch.cat([wide, one], 1) if has_bias else wide) @ projection
    found = {parameter_of(name, "weight"): out[:, : wide.shape[1]].reshape(weight.shape)}
    return found if bias is None else {**found, parameter_of(name, "bias"): out[:, -1]}
