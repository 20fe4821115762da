"""Make the embedded subset: 500 training and 100 test images a class, out of the full Fashion-MNIST.

python scripts/make_fashion_mnist_mini.py     (needs Debian's dataset-fashion-mnist)
"""

from pathlib import Path

import numpy as np

from frostline.streams.datasets import DEBIAN_FASHION_MNIST, read_idx

TARGET = Path(__file__).parents[1] / "src" / "frostline" / "data" / "fashion_mnist_mini.npz"


def subset(part: str, per_class: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return `per_class` random images of each class, sorted by their place in the full set."""
    x = read_idx(DEBIAN_FASHION_MNIST / f"{part}-images-idx3-ubyte.gz")
    y = read_idx(DEBIAN_FASHION_MNIST / f"{part}-labels-idx1-ubyte.gz")
    rows = np.sort(np.concatenate([rng.permutation(np.flatnonzero(y == c))[:per_class] for c in range(10)]))
    return x[rows], y[rows]


if __name__ == "__main__":
    rng = np.random.default_rng(2017)
    (x_train, y_train), (x_test, y_test) = subset("train", 500, rng), subset("t10k", 100, rng)
    np.savez_compressed(TARGET, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    print(f"{TARGET}: {len(x_train)} + {len(x_test)} images, {TARGET.stat().st_size / 1e6:.2f} MB")
