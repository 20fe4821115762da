"""Any of timm's models, cut into stages where it is one, with weights from a file or, where they can be reached, its own."""

import logging
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError, nearest
from frostline.core.torchvision_schemas import torchvision
from frostline.models.classifier import Classifier, original_names, refuse_missing


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


def timm_model(
    shape: Sequence[int],
    classes: int,
    name: str = "vit_tiny_patch16_224",
    pretrained: bool = False,
    checkpoint: str | None = None,
    pickled: bool = False,
    dropout: float = 0.0,
) -> Classifier:
    """Return one of timm's models for these samples, its classifier replaced by a new one.

    checkpoint: a file of weights under timm's names, its own classifier left out, positions and input channels adapted as timm
    does it: safetensors, or with `pickled` a .pth, read with weights_only. pretrained: timm's own, downloaded or cached.
    Vision transformers are cut into blocks, and so is every net that is its children one after another (ResNet, EfficientNet,
    MobileNet, ConvNeXt, ...), which is checked on two samples; another stays one stage, and then no prefix of it is cached.
    """
    torchvision()  # timm imports it
    try:
        import timm
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise UsageError("model=timm needs timm: pip install 'frostline[vision]'.") from error
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise UsageError(f"model.name={name!r}: timm has no such model.{nearest(name, known)}")
    if len(shape) != 3:
        raise UsageError(f"model={name} needs images, not samples of shape {list(shape)}.")
    net: Any = _create(name, shape, pretrained, _file(checkpoint, pickled), dropout)
    named = {id(t): n for n, t in (*net.named_parameters(), *net.named_buffers())}
    if isinstance(net, VisionTransformer) and getattr(net, "attn_pool", None) is None:
        parts = _vit_stages(net)
    else:
        parts = _stages(net, torch.zeros(2, *shape))
    with torch.no_grad():
        width = nn.Sequential(parts).eval()(torch.zeros(1, *shape)).shape[-1]
    return original_names(Classifier(nn.Sequential(parts).train(), width, classes), named)


def _file(checkpoint: str | None, pickled: bool) -> str | None:
    if checkpoint is None:
        return None
    if not Path(checkpoint).is_file():
        raise UsageError(f"model.checkpoint={checkpoint!r}: there is no such file. Expected a .safetensors file.")
    if not checkpoint.endswith(".safetensors") and not pickled:
        raise UsageError(
            f"model.checkpoint={checkpoint!r}: expected a .safetensors file; model.pickled=true reads a pickled one, as "
            "tensors only."
        )
    return checkpoint


def _create(name: str, shape: Sequence[int], pretrained: bool, file: str | None, dropout: float) -> Any:
    import timm

    more: dict[str, Any] = {"in_chans": shape[0], "num_classes": 0, "drop_rate": dropout}
    if file is not None:
        more |= {"pretrained": True, "pretrained_cfg_overlay": {"file": file, "custom_load": False}}
    elif pretrained:
        more |= {"pretrained": True}
    try:
        with _missing() as names:
            try:
                net = timm.create_model(name, img_size=shape[1] if shape[1] == shape[2] else tuple(shape[1:]), **more)
            except TypeError:  # a convolutional net takes every size
                net = timm.create_model(name, **more)
        refuse_missing(names, len(net.state_dict()), f"model.checkpoint={file!r}" if file else f"model.name={name!r}")
        return net
    except UsageError:
        raise
    except Exception as error:  # hubs and loaders fail in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = (
            "Expected weights of this very model."
            if file
            else "Use model.checkpoint=FILE.safetensors or model.pretrained=false."
        )
        raise UsageError(f"model.name={name!r}: {file or 'it'} could not be loaded: {reason} {hint}") from error


@contextmanager
def _missing() -> Iterator[set[str]]:
    """Collect the tensors that timm says, in its log only, that it did not find in the weights it read."""
    found: set[str] = set()

    class Hear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if match := re.match(r"Missing keys \((.*)\)", record.getMessage()):
                found.update(match[1].split(", "))

    log, own = logging.getLogger("timm.models._builder"), Hear()
    level = log.level
    log.addHandler(own)
    log.setLevel(logging.INFO)
    try:
        yield found
    finally:
        log.removeHandler(own)
        log.setLevel(level)


def _vit_stages(net: Any) -> "OrderedDict[str, nn.Module]":
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    blocks = list(net.blocks.children())
    pool = TimmPool(net.norm, net.fc_norm, net.global_pool, net.num_prefix_tokens)
    parts["embedding"] = TimmEmbedding(net)
    parts |= {f"block{number + 1}": block for number, block in enumerate(blocks)}
    parts["pool"] = pool
    return parts


def _stages(net: Any, x: Tensor) -> "OrderedDict[str, nn.Module]":
    """Return the net's children, its large ones taken apart, if one after another they are the net; else the net whole."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in net.named_children():
        inner = list(child.named_children()) if type(child) is nn.Sequential else []
        parts |= {f"{name}_{n}": m for n, m in inner} or {name: child}
    net.eval()
    with torch.no_grad():
        x = torch.rand_like(x)
        expected = net(x)
        try:
            got = nn.Sequential(parts)(x)
        except Exception:  # children that are not called in this order fail in their own ways
            got = None
    same = (
        isinstance(got, Tensor) and got.shape == expected.shape and torch.allclose(got, expected, rtol=1e-4, atol=1e-5)
    )
    return parts if same else OrderedDict(net=net)
