"""Image data sets as arrays: two embedded in the package, the others through torchvision."""

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frostline.core.checks import UsageError, one_of
from frostline.core.digests import remember, row_digests

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class DataSet:
    """Images x [N, channels, H, W] float32, labels y [N] int64, and the value of a black pixel."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    black: Tensor

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.y_train.max()) + 1


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # images and labels, to train and to test on


def _digits(root: Path, download: bool) -> Arrays:
    return _embedded("digits.npz")  # scikit-learn's, split by its train_test_split: importing that would take a second


def _mini(root: Path, download: bool) -> Arrays:
    return _embedded("fashion_mnist_mini.npz")


def _embedded(name: str) -> Arrays:
    with files("frostline.data").joinpath(name).open("rb") as f, np.load(f) as data:
        return data["x_train"], data["y_train"], data["x_test"], data["y_test"]


def read_idx(path: Path) -> np.ndarray:
    """Return the array in a gzipped IDX file of bytes (the format of MNIST and its kin)."""
    try:
        with gzip.open(path, "rb") as f:
            raw = f.read()
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of bytes")
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()


def _fashion_mnist(root: Path, download: bool) -> Arrays:
    """Prefer the user's data root; then the place where Debian's package keeps the same files."""
    if download or (root / "FashionMNIST").is_dir() or not DEBIAN_FASHION_MNIST.is_dir():
        return _torchvision("FashionMNIST", root, download)
    at = DEBIAN_FASHION_MNIST
    kinds = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    x_train, y_train, x_test, y_test = (read_idx(at / f"{kind}-ubyte.gz") for kind in kinds)
    return x_train, y_train, x_test, y_test


def _torchvision(name: str, root: Path, download: bool) -> Arrays:
    from frostline.core.torchvision_schemas import torchvision

    torchvision()
    from torchvision import datasets

    parts = [getattr(datasets, name)(str(root), train=train, download=download) for train in (True, False)]
    (x_train, y_train), (x_test, y_test) = ((np.asarray(p.data), np.asarray(p.targets)) for p in parts)
    return x_train, y_train, x_test, y_test


DATASETS: dict[str, Callable[[Path, bool], Arrays]] = {
    "digits": _digits,
    "fashion_mnist_mini": _mini,
    "fashion_mnist": _fashion_mnist,
    "mnist": partial(_torchvision, "MNIST"),
    "kmnist": partial(_torchvision, "KMNIST"),
    "cifar10": partial(_torchvision, "CIFAR10"),
    "cifar100": partial(_torchvision, "CIFAR100"),
}


def load(name: str, data_root: str = "data", download: bool = False, scaling: str = "standard") -> DataSet:
    """Return the named data set; UsageError says how to get it where it is missing, or which file is damaged.

    scaling: 'standard' gives each channel mean 0 and deviation 1 over the training images, 'unit' leaves pixels in 0..1.
    """
    one_of("stream.dataset", name, DATASETS)
    one_of("stream.scaling", scaling, ("standard", "unit"))
    root = Path(data_root).expanduser()
    try:
        x_train, y_train, x_test, y_test = DATASETS[name](root, download)
        if min(len(x_train), len(x_test)) == 0 or len(x_train) != len(y_train) or len(x_test) != len(y_test):
            raise ValueError(f"{len(x_train)}+{len(x_test)} images but {len(y_train)}+{len(y_test)} labels")
    except Exception as error:
        raise UsageError(_explain(name, root, error)) from error
    return _scale(x_train, y_train, x_test, y_test, scaling)


def _explain(name: str, root: Path, error: Exception) -> str:
    if isinstance(error, RuntimeError) and "not found" in str(error):
        debian = (
            " Debian and Ubuntu carry it: apt-get install dataset-fashion-mnist." if name == "fashion_mnist" else ""
        )
        return (
            f"Data set {name!r} was not found, or not whole, under stream.data_root={str(root)!r}. Download it there with "
            f"stream.download=true, or point stream.data_root (or FROSTLINE_DATA) at torchvision's folder.{debian} "
            "Without any download: stream=split_fashion_mnist_mini or stream=split_digits."
        )
    return (
        f"Data set {name!r} could not be read from {str(root)!r}: {type(error).__name__}: {error}. "
        "A file is damaged or cut short; delete it and fetch it again with stream.download=true."
    )


def _scale(x_train: Any, y_train: Any, x_test: Any, y_test: Any, scaling: str) -> DataSet:
    def images(array: np.ndarray) -> Tensor:
        array = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(array)).float().div_(255)

    train, test = images(x_train), images(x_test)
    mean = train.mean(dim=(0, 2, 3), keepdim=True)
    std = train.std(dim=(0, 2, 3), keepdim=True)
    if scaling == "unit":
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    known, place = np.unique(y_train, return_inverse=True)  # labels may begin at 1, or leave some out
    if not np.isin(y_test, known).all():
        raise UsageError(
            f"The test data have the label {np.setdiff1d(y_test, known)[0]}, which no training sample has."
        )
    labels = [torch.from_numpy(y.astype(np.int64)) for y in (place, np.searchsorted(known, y_test))]
    data = DataSet(train.sub_(mean).div_(std), labels[0], test.sub_(mean).div_(std), labels[1], (-mean / std)[0])
    for scaled, raw in ((data.x_train, x_train), (data.x_test, x_test)):  # means round differently on other threads
        remember(scaled, row_digests(torch.from_numpy(np.ascontiguousarray(raw))))
    return data
