"""Avalanche's benchmarks as streams."""

import gzip
import warnings

import numpy as np
import pytest
import torch

from frostline.core.checks import UsageError
from frostline.streams import from_avalanche
from frostline.streams.datasets import DEBIAN_FASHION_MNIST

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def avalanche():
    from frostline.core.torchvision_schemas import torchvision

    torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from avalanche import benchmarks
    return benchmarks


def numbers(classes, seed=0, each=6):
    rng = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes).repeat(each)
    return torch.randn(len(y), 4, generator=rng), y


def benchmark(avalanche, groups, labels=None, **settings):
    train = [numbers(group, seed) for seed, group in enumerate(groups)]
    return avalanche.tensors_benchmark(
        train_tensors=train, test_tensors=train, task_labels=labels or [0] * len(groups), **settings
    )


def test_classes_that_come_once_are_class_incremental(avalanche):
    stream = from_avalanche(benchmark(avalanche, [[0, 1], [2, 3], [4]]))
    assert (stream.scenario, len(stream), stream.classes, stream.shape) == ("class", 3, 5, (4,))
    (batch,) = stream[1].train.batches(100)
    x, y = numbers([2, 3], 1)
    assert torch.equal(batch.x, x)
    assert torch.equal(batch.y, y)
    assert stream[1].visible.tolist() == [True] * 4 + [False]


def test_classes_that_always_come_are_domain_incremental(avalanche):
    assert from_avalanche(benchmark(avalanche, [[0, 1], [0, 1]])).scenario == "domain"


def test_task_labels_make_a_head_for_each(avalanche):
    stream = from_avalanche(benchmark(avalanche, [[0, 1], [0, 1]], labels=[0, 1]))
    assert (stream.scenario, stream.classes) == ("task", 4)
    assert stream[1].classes == (2, 3)
    own = from_avalanche(benchmark(avalanche, [[0, 1], [2, 3]], labels=[0, 1]))
    assert own[1].classes == (2, 3)


def test_one_test_set_is_divided_by_classes(avalanche):
    made = benchmark(avalanche, [[0, 1], [2, 3]])
    whole = avalanche.tensors_benchmark(
        train_tensors=[numbers([0, 1]), numbers([2, 3])], test_tensors=[numbers([0, 1, 2, 3])], task_labels=[0, 0],
        complete_test_set_only=True,
    )  # fmt: skip
    assert len(made.test_stream) == 2
    stream = from_avalanche(whole)
    assert [task.test.labels.unique().tolist() for task in stream.tasks] == [[0, 1], [2, 3]]


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_one_of_its_own_by_name(avalanche, tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in DEBIAN_FASHION_MNIST.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    stream = from_avalanche("SplitFMNIST", tasks=5, settings={"shuffle": False}, data_root=str(tmp_path))
    assert [task.classes for task in stream.tasks] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert sum(len(task.train) for task in stream.tasks) == 60_000
    theirs = avalanche.SplitFMNIST(n_experiences=5, shuffle=False, dataset_root=str(tmp_path))
    rows = torch.arange(50)
    batch = next(iter(stream[2].train.batches(50, torch.cat([rows, torch.arange(50, len(stream[2].train))]))))
    for row in range(50):
        x, y, *_ = theirs.train_stream[2].dataset[row]
        assert torch.equal(batch.x[row], x)
        assert int(batch.y[row]) == int(y)


def test_split_cifar10_on_files_laid_out_as_it_expects(avalanche, tmp_path, monkeypatch):
    """Real digits in the place of its pictures, whose checksums are others; what it draws variants of comes as it is."""
    import pickle

    from sklearn.datasets import load_digits
    from torchvision.datasets import CIFAR10

    pixels, labels = load_digits(return_X_y=True)
    images = (
        np.kron(pixels.reshape(-1, 1, 8, 8) * 15.9375, np.ones((1, 3, 4, 4))).astype(np.uint8).reshape(len(pixels), -1)
    )
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        rows = slice(100 * number, 100 * (number + 1))
        (folder / name).write_bytes(pickle.dumps({"data": images[rows], "labels": labels[rows].tolist()}))
    names = {"label_names": [str(i) for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    stream = from_avalanche("SplitCIFAR10", tasks=5, settings={"shuffle": False}, data_root=str(tmp_path))
    assert [task.classes for task in stream.tasks] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert (stream.shape, sum(len(task.train) for task in stream.tasks)) == ((3, 32, 32), 500)
    (batch,) = stream[0].train.batches(1000)
    mean, deviation = (torch.tensor(of).view(3, 1, 1) for of in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)))
    first = int(np.flatnonzero(labels[:500] < 2)[0])
    assert torch.allclose(
        batch.x[0], (torch.from_numpy(images[first]).view(3, 32, 32) / 255 - mean) / deviation, atol=1e-5
    )


def test_refusals(avalanche, tmp_path):
    with pytest.raises(UsageError, match=r"'SplitMNST' is none of Avalanche's\. .*SplitMNIST"):
        from_avalanche("SplitMNST")
    with pytest.raises(UsageError, match=r"settings.n_experience: SplitMNIST does not take it\. .*n_experiences"):
        from_avalanche("SplitMNIST", settings={"n_experience": 2})
    with pytest.raises(UsageError, match="no train_stream and test_stream"):
        from_avalanche(object())
    with pytest.raises(UsageError, match="could not be made"):
        from_avalanche("SplitFMNIST", tasks=3, data_root=str(tmp_path / "nowhere"))
    bare = avalanche.utils.AvalancheDataset([torch.utils.data.TensorDataset(torch.zeros(4, 2))])
    with pytest.raises(UsageError, match="Experience 0 of train has no labels"):
        from_avalanche(avalanche.benchmark_from_datasets(train=[bare], test=[bare]))
