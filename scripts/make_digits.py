"""Make the embedded digits: those of scikit-learn (UCI, Alpaydin & Kaynak 1998), a quarter of each class to test on.

python scripts/make_digits.py
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TARGET = Path(__file__).parents[1] / "src" / "frostline" / "data" / "digits.npz"


def digits() -> dict[str, np.ndarray]:
    """Return images [N, 8, 8] of bytes and their labels."""
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    images = (images.reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=0)
    return {"x_train": images[train], "y_train": labels[train], "x_test": images[test], "y_test": labels[test]}


if __name__ == "__main__":
    arrays = digits()
    np.savez_compressed(TARGET, **arrays)  # type: ignore[arg-type]
    print(f"{TARGET}: {len(arrays['x_train'])} + {len(arrays['x_test'])} images, {TARGET.stat().st_size / 1e3:.0f} kB")
