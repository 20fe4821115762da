"""The last layer of every classifier."""

import torch
from torch import Tensor, nn


class Head(nn.Linear):
    """A linear classifier in which invisible classes cannot win, be learned or be unlearned."""

    def forward(self, input: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return logits [B, C] from features [B, D]; -inf where visible ([C] or [B, C] bool) is False."""
        logits = super().forward(input)
        return logits if visible is None else torch.where(visible, logits, -torch.inf)
