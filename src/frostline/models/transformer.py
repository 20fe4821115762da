"""A plain vision transformer on torch's own encoder layers, and timm's."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError, in_range, nearest
from frostline.core.torchvision_schemas import torchvision
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


class TimmEmbedding(nn.Module):
    """What a timm ViT does before its first block; the net itself, with what comes after taken out."""

    def __init__(self, net: Any):
        super().__init__()
        self.net = net
        net.blocks, net.norm, net.fc_norm = nn.Sequential(), nn.Identity(), nn.Identity()
        net.reset_classifier(0)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, tokens, width]."""
        return self.net.forward_features(x)


class TimmPool(nn.Module):
    """What it does after its last: norm and pooling."""

    def __init__(self, norm: nn.Module, fc_norm: nn.Module, kind: str, prefix_tokens: int):
        super().__init__()
        self.norm, self.fc_norm, self.kind, self.prefix_tokens = norm, fc_norm, kind, prefix_tokens

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width]."""
        from timm.layers.pool1d import global_pool_nlc

        return self.fc_norm(global_pool_nlc(self.norm(x), self.kind, num_prefix_tokens=self.prefix_tokens))


def timm_vit(
    shape: Sequence[int],
    classes: int,
    name: str = "vit_tiny_patch16_224",
    weights: str | None = None,
    dropout: float = 0.0,
) -> Classifier:
    """Return one of timm's vision transformers, resized to the samples, cut into stages.

    weights: a file of weights for the same size of images (safetensors, or a .pth that is read with weights_only).
    """
    torchvision()  # timm imports it
    try:
        import timm
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise UsageError("model=timm_vit needs timm: pip install 'frostline[vision]'.") from error
    known = timm.list_models("*vit_*")
    if name not in known:
        raise UsageError(f"model.name={name!r}: timm has no such vision transformer.{nearest(name, known)}")
    if len(shape) != 3 or shape[1] != shape[2]:
        raise UsageError(f"model={name} needs square images, not samples of shape {list(shape)}.")
    net: Any = timm.create_model(
        name, in_chans=shape[0], img_size=shape[1], num_classes=0, checkpoint_path=weights or "", drop_rate=dropout
    )
    if not isinstance(net, VisionTransformer) or getattr(net, "attn_pool", None) is not None:
        raise UsageError(
            f"model.name={name!r}: a {type(net).__name__} that cannot be cut into stages. Try vit_tiny_patch16_224."
        )
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    blocks = list(net.blocks.children())
    pool = TimmPool(net.norm, net.fc_norm, net.global_pool, net.num_prefix_tokens)
    parts["embedding"] = TimmEmbedding(net)
    parts |= {f"block{number + 1}": block for number, block in enumerate(blocks)}
    parts["pool"] = pool
    return Classifier(nn.Sequential(parts), net.num_features, classes)
