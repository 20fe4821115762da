"""Heads that are worked out instead of trained, and what it takes to build one again when its values come from a file."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import UsageError


class Normalised(nn.Module):
    """A layer that is given features of length 1."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, z: Tensor) -> Tensor:
        """Return what the layer makes of z [B, D]."""
        return self.layer(F.normalize(z))


class Random(nn.Module):
    """relu(z W) of a fixed W [D, M]."""

    def __init__(self, matrix: Tensor):
        super().__init__()
        self.matrix = nn.Buffer(matrix)

    def forward(self, z: Tensor) -> Tensor:
        """Return [B, M] of [B, D]."""
        return projected(z, self.matrix)


class Mahalanobis(nn.Module):
    """Minus the squared distance to each class's mean [C, D], in the metric of its own, or of one [1, D, D] for all."""

    def __init__(self, means: Tensor, inverse: Tensor, seen: Tensor, tukey: float, normalise: bool):
        super().__init__()
        self.tukey, self.normalise = tukey, normalise
        self.means = nn.Buffer(F.normalize(means) if normalise else means)
        self.inverse, self.seen = nn.Buffer(inverse), nn.Buffer(seen)

    def forward(self, z: Tensor) -> Tensor:
        """Return logits [B, C] of features [B, D]."""
        z = powered(z, self.tukey)
        z = F.normalize(z) if self.normalise else z
        away = (z[:, None] - self.means).transpose(0, 1)  # [C, B, D]
        near = -(torch.matmul(away, self.inverse) * away).sum(-1).T
        return torch.where(self.seen, near, near.amin(1, keepdim=True))


class Rectified(nn.Module):
    """A head whose old classes are raised by `rise` [C] where a new class, `new` [C], would win among the `known` [C]."""

    def __init__(self, layer: nn.Module, rise: Tensor, new: Tensor, known: Tensor):
        super().__init__()
        self.layer = layer
        self.rise, self.new, self.known = nn.Buffer(rise), nn.Buffer(new), nn.Buffer(known)

    def forward(self, z: Tensor) -> Tensor:
        """Return the logarithms of the rectified probabilities [B, C] of features [B, D]."""
        raw = self.layer(z)
        among = torch.where(self.known, raw, -torch.inf)
        rises = self.new[among.argmax(1)][:, None] & ~self.new
        return raw - among.logsumexp(1, keepdim=True) + rises * self.rise


def projected(z: Tensor, matrix: Tensor | None) -> Tensor:
    """Return relu(z matrix), or z where there is none."""
    return z if matrix is None else F.relu(z @ matrix)


def powered(z: Tensor, power: float) -> Tensor:
    """Return |z|^power with z's sign."""
    return z if power == 1 else z.sign() * z.abs() ** power


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Return a linear layer of these values."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device)
    layer.weight.data = weight
    if bias is not None:
        layer.bias.data = bias
    return layer


def copied(model: nn.Module) -> nn.Linear:
    """Return a copy of the model's linear head, with a bias, 0 where it has none."""
    head = model.get_submodule("head")
    weight, bias = head.get_parameter("weight").detach(), getattr(head, "bias", None)
    return linear(weight.clone(), torch.zeros_like(weight[:, 0]) if bias is None else bias.detach().clone())


def described(head: nn.Module) -> dict[str, Any]:
    """Return what `rebuilt` takes, plain values."""
    kind = type(head).__name__
    if isinstance(head, nn.Linear):
        return {"kind": kind, "shape": list(head.weight.shape), "bias": head.bias is not None}
    if isinstance(head, Random):
        return {"kind": kind, "shape": list(head.matrix.shape)}
    if isinstance(head, Mahalanobis):
        shapes = {name: list(getattr(head, name).shape) for name in ("means", "inverse")}
        return {"kind": kind, **shapes, "tukey": head.tukey, "normalise": head.normalise}
    if isinstance(head, Rectified):
        return {"kind": kind, "of": [described(head.layer)], "classes": len(head.rise)}
    if isinstance(head, Normalised | nn.Sequential):
        return {"kind": kind, "of": [described(part) for part in head.children()]}
    return {"kind": kind}


def rebuilt(description: dict[str, Any]) -> nn.Module:
    """Return a head of the kind and the shapes described; its values are for load_state_dict to set. UsageError for another."""
    inner = [rebuilt(part) for part in description.get("of", ())]
    match description["kind"]:
        case "Linear":
            out, width = description["shape"]
            return nn.Linear(width, out, bias=description["bias"])
        case "Random":
            return Random(torch.zeros(description["shape"]))
        case "Mahalanobis":
            means, inverse = (torch.zeros(description[name]) for name in ("means", "inverse"))
            seen = torch.zeros(len(means), dtype=torch.bool)
            return Mahalanobis(means, inverse, seen, description["tukey"], description["normalise"])
        case "Rectified":
            flags = torch.zeros(description["classes"], dtype=torch.bool)
            return Rectified(inner[0], torch.zeros(len(flags)), flags, flags.clone())
        case "Normalised":
            return Normalised(*inner)
        case "Sequential":
            return nn.Sequential(*inner)
    raise UsageError(
        f"The run answers with a head of the kind {description['kind']}, which cannot be built again here."
    )
