"""Gates on hidden units: how far a weight may move where its units are needed, and how what decides the gates is moved."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from frostline.core.rng import generator
from frostline.core.structure import head, hidden_units
from frostline.core.tensors import flags


def allowed(model: nn.Module, name: str, like: Tensor, needed: Mapping[str, Tensor], classes: Sequence[int]) -> Tensor:
    """Return the share of its move that each of a parameter's values may keep, of the parameter's shape.

    needed: how much each unit of a layer is, in 0 to 1. A weight may move as far as the less needed of the two units that it
    joins lets it; in the head, only rows of these classes do.
    """
    if name in head(model):
        return flags(classes, like).to(like).view(-1, *(1,) * (like.ndim - 1)).expand_as(like)
    layer, kind = name.rsplit(".", 1)
    own = needed.get(layer, like.new_zeros(len(like)))
    if kind == "bias":
        return 1 - own
    feeding = [unit.layer for unit in hidden_units(model) if unit.following == layer and unit.layer in needed]
    return 1 - torch.minimum(own[:, None], needed[feeding[0]]) if feeding else (1 - own)[:, None].expand_as(like)


def drawn(model: nn.Module, seed: int, task: int) -> dict[str, Tensor]:
    """Return a task's first embeddings, one a hidden unit, by layer."""
    weights = {unit.layer: model.get_parameter(f"{unit.layer}.weight") for unit in hidden_units(model)}
    return {
        layer: torch.randn(len(weight), generator=generator(seed, "hat", layer, task)).to(weight)
        for layer, weight in weights.items()
    }


def moved(leaves: Mapping[str, Tensor], s: float, s_max: float, rate: float) -> dict[str, Tensor]:
    """Return embeddings e after a step of `rate` along their gradients, compensated for the slope of sigmoid(s e).

    Serra et al. 2018, equation 5; the limits on what goes into cosh, on the gradient's length and on the embeddings are the
    authors' code's.
    """
    pulls: dict[str, Tensor] = {}
    for layer, e in leaves.items():
        assert e.grad is not None
        sharp = torch.cosh((s * e.detach()).clamp(-50, 50)) + 1
        pulls[layer] = e.grad * (s_max / s) * sharp / (torch.cosh(e.detach()) + 1)
    length = torch.stack([pull.norm() for pull in pulls.values()]).norm()
    step = rate * (1e4 / length.clamp(min=1e4))
    return {layer: (e.detach() - step * pulls[layer]).clamp(-6, 6) for layer, e in leaves.items()}


def claimed(gates: Mapping[str, Tensor], taken: Mapping[str, Tensor]) -> Tensor:
    """Return the share of the units that no task before needs (1 - `taken`) that these gates let through, a scalar."""
    free = {layer: 1 - taken.get(layer, torch.zeros_like(gate)) for layer, gate in gates.items()}
    wanted = torch.stack([(gates[layer] * free[layer]).sum() for layer in gates]).sum()
    return wanted / torch.stack([own.sum() for own in free.values()]).sum().clamp(min=1e-6)
