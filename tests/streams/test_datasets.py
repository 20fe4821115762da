"""Readers on files in the formats that the real data sets have on disk."""

import gzip
import hashlib
import pickle

import numpy as np
import pytest
import torch

from frostline.streams import datasets
from frostline.streams.datasets import DEBIAN_FASHION_MNIST, load, read_idx


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def write_mnist(folder, n=(40, 20)):
    """Write files as MNIST's own, with small numbers of images; return the arrays."""
    folder.mkdir(parents=True)
    rng, kept = np.random.default_rng(0), []
    for part, count in (("train", n[0]), ("t10k", n[1])):
        images, labels = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
        kept += [images, labels]
    return kept


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("kmnist", "KMNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_mnist_family(name, folder, tmp_path):
    x_train, y_train, _, y_test = write_mnist(tmp_path / folder / "raw")
    data = load(name, str(tmp_path))
    assert data.x_train.shape == (40, 1, 28, 28)
    assert torch.equal(data.y_train, torch.from_numpy(y_train))
    assert torch.equal(data.y_test, torch.from_numpy(y_test))
    pixels = torch.from_numpy(x_train).float() / 255
    torch.testing.assert_close(data.x_train[:, 0], (pixels - pixels.mean()) / pixels.std())
    assert float(data.x_train.min()) == pytest.approx(float(data.black), abs=0.02)


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar(name, classes, tmp_path, monkeypatch):
    """torchvision checks the MD5 of each batch before it unpickles it; here the sums are those of small files."""
    from frostline.core.torchvision_schemas import torchvision

    torchvision()
    from torchvision import datasets as tv

    cls = getattr(tv, name.upper())
    folder, rng = tmp_path / cls.base_folder, np.random.default_rng(0)
    folder.mkdir()

    def write(entries):
        made = []
        for file, _ in entries:
            labels = list(range(classes))
            content = {"data": rng.integers(0, 256, (classes, 3072), dtype=np.uint8)}
            content |= {"labels": labels} if classes == 10 else {"fine_labels": labels}
            raw = pickle.dumps(content, protocol=2)
            (folder / file).write_bytes(raw)
            made.append([file, hashlib.md5(raw).hexdigest()])
        return made

    monkeypatch.setattr(cls, "train_list", write(cls.train_list))
    monkeypatch.setattr(cls, "test_list", write(cls.test_list))
    key = cls.meta["key"]
    raw = pickle.dumps({key: [f"class {i}" for i in range(classes)]}, protocol=2)
    (folder / cls.meta["filename"]).write_bytes(raw)
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": hashlib.md5(raw).hexdigest()})
    data = load(name, str(tmp_path))
    assert data.x_train.shape == (len(cls.train_list) * classes, 3, 32, 32)
    assert data.classes == classes
    torch.testing.assert_close(data.x_train.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)

    (folder / cls.train_list[0][0]).write_bytes(b"something else")
    with pytest.raises(ValueError, match="not found, or not whole"):
        load(name, str(tmp_path))


def test_missing_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"download=true.*FROSTLINE_DATA.*split_digits"):
        load("mnist", str(tmp_path))


def test_truncated_is_named(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged or cut short"):
        load("mnist", str(tmp_path))


def test_debian_files_truncated_or_of_another_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path)
    with pytest.raises(ValueError, match="could not be read"):
        load("fashion_mnist", str(tmp_path / "data"))
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"not idx"))
    with pytest.raises(ValueError, match="not an IDX file"):
        read_idx(path)
    path.write_bytes(gzip.compress(idx(np.zeros((3, 2)))))
    assert read_idx(path).shape == (3, 2)


def test_missing_fashion_mnist_mentions_debian(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "nothing")
    with pytest.raises(ValueError, match="apt-get install dataset-fashion-mnist"):
        load("fashion_mnist", str(tmp_path / "data"))


def test_digits_are_the_real_ones():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train, _ = train_test_split(range(len(labels)), test_size=0.25, stratify=labels, random_state=0)
    pixels = load("digits", scaling="unit").x_train.flatten(1).numpy()
    np.testing.assert_allclose(pixels, images[train] / 16, atol=0.002)

    data = load("digits")
    assert len(data.x_train) + len(data.x_test) == len(load_digits().target) == 1797
    assert data.y_test.bincount().min() >= 43


def test_mini_is_stratified():
    data = load("fashion_mnist_mini")
    assert data.x_train.shape == (5000, 1, 28, 28)
    assert data.y_train.bincount().tolist() == [500] * 10
    assert data.y_test.bincount().tolist() == [100] * 10


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_mini_is_a_subset_of_the_full_set():
    full = {x.tobytes() for x in read_idx(DEBIAN_FASHION_MNIST / "train-images-idx3-ubyte.gz")}
    x_train, *_ = datasets.DATASETS["fashion_mnist_mini"](DEBIAN_FASHION_MNIST, False)
    assert all(x.tobytes() in full for x in x_train)
    data = load("fashion_mnist", "nowhere")
    assert (len(data.x_train), len(data.x_test)) == (60_000, 10_000)
