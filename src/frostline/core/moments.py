"""Moments of a stream: counts, means and scatters of classes, batch by batch, as if all had been there at once."""

from typing import Any

import torch
from torch import Tensor

KEYS = ("counts", "means", "scatters")


class ClassMoments:
    """How many samples each class has had, their mean [C, D], and their scatter around it: [C, D, D], or [1, D, D] of all.

    Chan et al. 1979: a batch's own moments are joined with those so far, which is exact and loses no digits to large means.
    """

    def __init__(self, shared: bool = False):
        self.shared = shared
        self.counts, self.means, self.scatters = torch.zeros(0), torch.zeros(0, 0), torch.zeros(0, 0, 0)

    def add(self, z: Tensor, y: Tensor, classes: int) -> None:
        """Take up samples [B, D] of classes [B]."""
        width = z.shape[1]
        if not len(self.counts):
            self.counts, self.means = z.new_zeros(classes), z.new_zeros(classes, width)
            self.scatters = z.new_zeros(1 if self.shared else classes, width, width)
        for label in y.unique().tolist():
            own = z[y == label]
            here, old = own.mean(0), self.counts[label]
            shift, total = here - self.means[label], old + len(own)
            deviation = own - here
            joined = deviation.T @ deviation + torch.outer(shift, shift) * (old * len(own) / total)
            self.scatters[0 if self.shared else label] += joined
            self.means[label] += shift * (len(own) / total)
            self.counts[label] = total

    @property
    def nbytes(self) -> int:
        """Bytes of all three."""
        return sum(getattr(self, key).numel() * getattr(self, key).element_size() for key in KEYS)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all three."""
        return {key: getattr(self, key).clone() for key in KEYS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        for key in KEYS:
            setattr(self, key, state[key].clone())
