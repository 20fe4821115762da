"""Herding: the few samples of a class whose mean is nearest to the mean of all."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.features import features
from frostline.core.types import Source


def herded(z: Tensor, count: int) -> Tensor:
    """Return the places of `count` rows of z [N, D], each the one that brings the mean of those so far nearest to that of all.

    Welling 2009; Rebuffi et al. 2017, arXiv 1611.07725, algorithm 4.
    """
    z = z.double()
    goal, length = z.mean(0), z.square().sum(1)
    total, free, chosen = torch.zeros_like(goal), torch.zeros_like(length), []
    for number in range(1, min(count, len(z)) + 1):
        toward = number * goal - total
        place = int((length - 2 * (z @ toward) + free).argmin())  # |toward - z|^2, but for what all have in common
        chosen.append(place)
        free[place] = torch.inf
        total = total + z[place]
    return torch.tensor(chosen, dtype=torch.int64)


def herding_order(model: nn.Module, source: Source, most: int) -> np.ndarray:
    """Return each sample's place in its class's herding order [N], infinite beyond the first `most` of a class.

    Features are brought to length 1, as the paper has it.
    """
    z, y = zip(*((F.normalize(own).cpu(), batch.y.cpu()) for own, batch in features(model, source)), strict=True)
    rows, labels = torch.cat(z), torch.cat(y)
    order = np.full(len(labels), np.inf)
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().squeeze(1)
        chosen = own[herded(rows[own], most)]
        order[chosen.numpy()] = np.arange(len(chosen))
    return order
