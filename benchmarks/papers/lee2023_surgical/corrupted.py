"""A net that learned clean images meets corrupted ones, few of them: Lee et al. 2023, with Fashion-MNIST's images."""

import torch
from torch import Tensor
from torch.nn import functional as F

from frostline.core.checks import one_of
from frostline.core.rng import generator
from frostline.core.types import TaskStream
from frostline.streams.datasets import load
from frostline.streams.own import from_tasks

# as MNIST-C and ImageNet-C have them (Hendrycks & Dietterich 2019), severe
CORRUPTIONS = ("noise", "impulse", "contrast", "pixelate", "flipped_labels")


def corrupted_fashion_mnist(
    corruption: str = "noise",
    base: int = 20_000,
    per_class: int = 100,
    data_root: str = "data",
    download: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> TaskStream:
    """Return two tasks of all classes: clean images, and `per_class` of each class changed, from data not seen before.

    flipped_labels: the images as they are, each label y the other way round, 9 - y: what the last layer can set right.
    """
    one_of("stream.corruption", corruption, CORRUPTIONS)
    data = load("fashion_mnist", data_root, download, "unit")
    order = torch.randperm(len(data.x_train), generator=generator(seed, "corrupted"))
    clean, others = order[:base], order[base:]
    few = torch.cat([others[data.y_train[others] == c][:per_class] for c in range(data.classes)])
    rng = generator(seed, "corruption", corruption)
    x, x_test = (_changed(images, corruption, rng) for images in (data.x_train[few], data.x_test))
    y, y_test = data.y_train[few], data.y_test
    if corruption == "flipped_labels":
        y, y_test = data.classes - 1 - y, data.classes - 1 - y_test
    return from_tasks(
        [((data.x_train[clean], data.y_train[clean]), (data.x_test, data.y_test)), ((x, y), (x_test, y_test))],
        scenario="domain", names=["clean", corruption], name=f"corrupted_{corruption}", device=device,
    )  # fmt: skip


def _changed(x: Tensor, corruption: str, rng: torch.Generator) -> Tensor:
    if corruption == "noise":
        return (x + 0.38 * torch.randn(x.shape, generator=rng)).clamp(0, 1)
    if corruption == "impulse":
        drawn = torch.rand(x.shape, generator=rng)
        return torch.where(drawn < 0.135, 0.0, torch.where(drawn > 0.865, 1.0, x))
    if corruption == "contrast":
        mean = x.mean((2, 3), keepdim=True)
        return ((x - mean) * 0.15 + mean).clamp(0, 1)
    if corruption == "pixelate":
        return F.interpolate(F.interpolate(x, size=(7, 7), mode="area"), size=x.shape[2:], mode="nearest")
    return x
