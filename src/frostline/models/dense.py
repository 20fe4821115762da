"""Softmax regression and the multi-layer perceptron."""

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

from torch import nn

from frostline.core.checks import in_range, one_of
from frostline.models.classifier import Classifier

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def linear(shape: Sequence[int], classes: int, init: str = "torch") -> Classifier:
    """Return softmax regression on the flattened sample."""
    return mlp(shape, classes, hidden=[], init=init)


def mlp(
    shape: Sequence[int],
    classes: int,
    hidden: list[int] = [400, 400],  # noqa: B006
    dropout: float = 0.0,
    activation: str = "relu",
    init: str = "torch",
) -> Classifier:
    """Return a perceptron with hidden layers of the widths in `hidden`; each layer is a block.

    init: 'torch' as nn.Linear draws its weights, or 'kaiming' (He et al. 2015, arXiv 1502.01852): uniform, of a variance that
    keeps the activation's, biases 0. It has no gain for elu, gelu and silu; those take that of relu. 'xavier' (Glorot & Bengio
    2010): uniform, of variance 2 / (in + out), biases 0.
    """
    in_range("model.dropout", dropout, 0, 1)
    one_of("model.activation", activation, tuple(ACTIVATIONS))
    one_of("model.init", init, ("torch", "kaiming", "xavier"))
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = prod(shape)
    for number, units in enumerate(hidden):
        in_range(f"model.hidden[{number}]", units, 1)
        layer = [nn.Linear(width, units), ACTIVATIONS[activation]()] + ([nn.Dropout(dropout)] if dropout else [])
        parts[f"layer{number + 1}"] = nn.Sequential(*layer)
        width = units
    model = Classifier(nn.Sequential(parts), width, classes)
    gain = "relu" if activation in ("elu", "gelu", "silu") else activation
    for module in model.modules() if init != "torch" else ():
        if isinstance(module, nn.Linear):
            if init == "kaiming":
                nn.init.kaiming_uniform_(module.weight, nonlinearity="linear" if module is model.head else gain)  # type: ignore[arg-type]
            else:
                nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return model
