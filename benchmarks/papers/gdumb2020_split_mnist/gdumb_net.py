"""The perceptron of GDumb's authors: no biases, a batch-norm after every layer, the last one too."""

from collections.abc import Sequence
from math import prod

from torch import nn

from frostline.models.classifier import Classifier


def layer(width: int, units: int) -> nn.Sequential:
    """Return a linear layer with a norm."""
    return nn.Sequential(nn.Linear(width, units, bias=False), nn.BatchNorm1d(units, eps=1e-6))


def mlp(shape: Sequence[int], classes: int, width: int = 100) -> Classifier:
    """Return two hidden layers of `width` units and a head."""
    hidden = [layer(prod(shape), width).append(nn.ReLU()), layer(width, width).append(nn.ReLU())]
    net = Classifier(nn.Sequential(nn.Flatten(), *hidden), width, classes)
    net.head = layer(width, classes)  # type: ignore[assignment]
    return net
