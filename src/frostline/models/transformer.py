"""A plain vision transformer on torch's own encoder layers."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError, in_range
from frostline.models.classifier import Classifier


class Patches(nn.Module):
    """Cut an image into square patches, project each, add where it was."""

    def __init__(self, channels: int, size: tuple[int, int], patch: int, width: int):
        super().__init__()
        self.patch_embed = nn.Conv2d(channels, width, patch, patch)
        self.pos_embed = nn.Parameter(torch.randn(1, (size[0] // patch) * (size[1] // patch), width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, patches, width] from [B, C, H, W]."""
        return self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed


class MeanPool(nn.Module):
    """Normalise, then average over the tokens."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width] from [B, L, width]."""
        return self.norm(x).mean(1)


def vit(
    shape: Sequence[int],
    classes: int,
    patch: int = 7,
    width: int = 384,
    depth: int = 6,
    heads: int = 12,
    mlp_ratio: int = 4,
    dropout: float = 0.0,
) -> Classifier:
    """Return a vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) with pre-norm blocks and mean pooling.

    The defaults are the size of MiniLM-L6. Blocks: the patches, then `depth` nn.TransformerEncoderLayer, then the last norm.
    """
    if len(shape) != 3 or shape[1] % patch or shape[2] % patch:
        fits = [p for p in range(1, 33) if len(shape) == 3 and not shape[1] % p and not shape[2] % p]
        hint = f" The nearest patch that divides it is {min(fits, key=lambda p: abs(p - patch))}." if fits else ""
        raise UsageError(
            f"model.patch={patch}: expected images that {patch} divides, not samples of {list(shape)}.{hint}"
        )
    in_range("model.depth", depth, 1)
    in_range("model.dropout", dropout, 0, 1)
    if width % heads:
        raise UsageError(f"model.heads={heads}: expected a number that divides model.width={width}.")
    parts: OrderedDict[str, nn.Module] = OrderedDict(patches=Patches(shape[0], (shape[1], shape[2]), patch, width))
    for number in range(depth):
        parts[f"block{number + 1}"] = nn.TransformerEncoderLayer(
            width, heads, mlp_ratio * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
    parts["pool"] = MeanPool(width)
    return Classifier(nn.Sequential(parts), width, classes)
