"""Softmax regression and the multi-layer perceptron."""

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

from torch import nn

from frostline.core.checks import in_range
from frostline.models.classifier import Classifier


def linear(shape: Sequence[int], classes: int) -> Classifier:
    """Return softmax regression on the flattened sample."""
    return mlp(shape, classes, hidden=[])


def mlp(shape: Sequence[int], classes: int, hidden: list[int] = [400, 400], dropout: float = 0.0) -> Classifier:  # noqa: B006
    """Return a perceptron with ReLU layers of the widths in `hidden`; each layer is a block."""
    in_range("model.dropout", dropout, 0, 1)
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = prod(shape)
    for number, units in enumerate(hidden):
        in_range(f"model.hidden[{number}]", units, 1)
        layer = [nn.Linear(width, units), nn.ReLU()] + ([nn.Dropout(dropout)] if dropout else [])
        parts[f"layer{number + 1}"] = nn.Sequential(*layer)
        width = units
    return Classifier(nn.Sequential(parts), width, classes)
