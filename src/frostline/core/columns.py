"""A perceptron that gets a column of units for each task, which reads the columns before it and is read by none of them."""

from itertools import count

import torch
from torch import Tensor, nn

from frostline.core.structure import hidden_units


class Columns(nn.Module):
    """A linear layer with a column of units for each task; `active` says up to which column it is computed.

    Column k reads all that columns 0 to k of the layer before put out (Rusu et al. 2016, equation 1); what is the
    head puts out column `active` alone. Columns before the active one have no gradient.
    """

    def __init__(self, layer: nn.Linear, first: bool, last: bool):
        super().__init__()
        self.first, self.last, self.active = first, last, 0
        self.columns = nn.ModuleList([layer])

    def grow(self, rng: torch.Generator) -> None:
        """Add a column, with torch's own initial weights of a linear layer."""
        layer = self.columns[0]
        assert isinstance(layer, nn.Linear)
        width = layer.in_features * (1 if self.first else len(self.columns) + 1)
        fresh = nn.utils.skip_init(nn.Linear, width, layer.out_features, layer.bias is not None)
        for p in fresh.parameters():
            p.data.uniform_(-(width**-0.5), width**-0.5, generator=rng)
        self.columns.append(fresh.to(layer.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, units * (active + 1)], or what the active column of a head says [B, C]."""
        if self.last:
            return self.columns[self.active](x)
        found = []
        for number in range(self.active + 1):
            column = self.columns[number]
            given = x if self.first else x[..., : column.in_features]
            with torch.set_grad_enabled(torch.is_grad_enabled() and number == self.active):
                found.append(column(given))
        return torch.cat(found, -1)


def in_columns(model: nn.Module) -> list[Columns]:
    """Return a perceptron's layers in columns, shallow first; the first call puts `Columns` in place of its linear layers."""
    found = [m for m in model.modules() if isinstance(m, Columns)]
    if not found:
        units = hidden_units(model)
        names = [units[0].layer, *(unit.following for unit in units)]
        for place, name in zip(count(), names):
            parent, _, own = name.rpartition(".")
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            found.append(Columns(layer, place == 0, place == len(names) - 1))
            setattr(model.get_submodule(parent), own, found[-1])
    return found
