"""The supervised contrastive loss."""

import torch
from torch import Tensor


def supervised_contrast(z: Tensor, same: Tensor, among: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """Return the mean over anchors of -log of the share that those of its class have among all (Khosla et al. 2020).

    arXiv 2004.11362, equation 2: the mean over positives stands outside the logarithm. z [B, D] of length 1; same [B, B]: who
    is of one class; among [B, B]: whom a row is compared with; anchors [B]: rows that count, where they have anyone of their
    class beside themselves.
    """
    others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    alike = z @ z.T / temperature
    shares = alike - alike.masked_fill(~(among & others), -torch.inf).logsumexp(1, keepdim=True)
    positives = same & others
    count = positives.sum(1)
    each = -shares.masked_fill(~positives, 0.0).sum(1) / count.clamp(min=1)
    rows = anchors & (count > 0)
    return each.masked_fill(~rows, 0.0).sum() / rows.sum().clamp(min=1)
