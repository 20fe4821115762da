"""Convolutional networks: a small plain one, the slim ResNet-18 of the continual-learning papers, torchvision's."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError, in_range
from frostline.models.classifier import Classifier


def _images(shape: Sequence[int], name: str) -> int:
    """Return the number of channels, or say that the data are not images."""
    if len(shape) != 3:
        raise UsageError(f"model={name} needs images [channels, height, width], not samples of shape {list(shape)}.")
    return shape[0]


def cnn(shape: Sequence[int], classes: int, channels: list[int] = [32, 64], hidden: int = 128) -> Classifier:  # noqa: B006
    """Return a plain net: 3x3 convolution, ReLU and 2x2 pooling for each entry of `channels`, then one dense layer."""
    width = _images(shape, "cnn")
    in_range("model.hidden", hidden, 1)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    size = (shape[1], shape[2])
    for number, units in enumerate(channels):
        in_range(f"model.channels[{number}]", units, 1)
        parts[f"conv{number + 1}"] = nn.Sequential(nn.Conv2d(width, units, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        width, size = units, (size[0] // 2, size[1] // 2)
    if 0 in size:
        raise UsageError(f"model.channels={list(channels)}: images of {shape[1]}x{shape[2]} can be halved fewer times.")
    parts["dense"] = nn.Sequential(nn.Flatten(), nn.Linear(width * size[0] * size[1], hidden), nn.ReLU())
    return Classifier(nn.Sequential(parts), hidden, classes)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch-norm and a shortcut (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, width: int, units: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, units, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(units)
        self.conv2 = nn.Conv2d(units, units, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(units)
        self.shortcut = nn.Sequential()
        if stride != 1 or width != units:
            self.shortcut = nn.Sequential(nn.Conv2d(width, units, 1, stride, bias=False), nn.BatchNorm2d(units))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, units, H / stride, W / stride]."""
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def slim_resnet18(shape: Sequence[int], classes: int, filters: int = 20) -> Classifier:
    """Return the ResNet-18 with `filters` base channels of GEM (Lopez-Paz & Ranzato 2017), for any image size.

    Blocks: the stem, then eight residual blocks. The papers pool 4x4 windows of 32x32 images; the mean over whatever
    is left is the same there and fits every size.
    """
    in_range("model.filters", filters, 1)
    stem = nn.Sequential(nn.Conv2d(_images(shape, "slim_resnet18"), filters, 3, padding=1, bias=False))
    stem.extend([nn.BatchNorm2d(filters), nn.ReLU()])
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=stem)
    width = filters
    for stage in range(4):
        for place in range(2):
            units = filters * 2**stage
            parts[f"block{2 * stage + place + 1}"] = BasicBlock(width, units, 2 if stage and not place else 1)
            width = units
    parts["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(nn.Sequential(parts), width, classes)


def _torchvision(name: str, shape: Sequence[int], classes: int, stem: str) -> Classifier:
    if stem not in ("imagenet", "small"):
        raise UsageError(f"model.stem={stem!r}: expected imagenet (7x7, stride 2, pooling) or small (3x3, stride 1).")
    from frostline.core.torchvision_schemas import torchvision

    channels = _images(shape, name)
    build: Callable[..., nn.Module] = getattr(torchvision().models, name)
    net: dict[str, nn.Module] = dict(build(weights=None).named_children())
    first = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    if stem == "imagenet":
        first = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(first, net["bn1"], nn.ReLU()))
    if stem == "imagenet":
        parts["maxpool"] = net["maxpool"]
    residual = [block for stage in range(1, 5) for block in net[f"layer{stage}"].children()]
    parts.update({f"block{number + 1}": block for number, block in enumerate(residual)})
    parts["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    features = net["fc"].in_features
    assert isinstance(features, int)
    return Classifier(nn.Sequential(parts), features, classes)


def resnet18(shape: Sequence[int], classes: int, stem: str = "small") -> Classifier:
    """Return torchvision's ResNet-18 without weights; the small stem suits images of 32x32."""
    return _torchvision("resnet18", shape, classes, stem)


def resnet34(shape: Sequence[int], classes: int, stem: str = "small") -> Classifier:
    """Return torchvision's ResNet-34 without weights."""
    return _torchvision("resnet34", shape, classes, stem)


def resnet50(shape: Sequence[int], classes: int, stem: str = "small") -> Classifier:
    """Return torchvision's ResNet-50 without weights."""
    return _torchvision("resnet50", shape, classes, stem)
