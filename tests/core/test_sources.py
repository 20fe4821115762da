"""Sources of batches against each other."""

import itertools
import os

import pytest
import torch
from torch.utils.data import TensorDataset

from frostline.core.joining import Joined, joined
from frostline.core.loaders import LoaderSource
from frostline.core.rng import generator
from frostline.core.sources import TensorSource
from frostline.streams import from_arrays


def sources():
    x, y = torch.randn(50, 3), torch.arange(30) % 4
    rows = torch.randperm(50, generator=generator(1))[:30]
    return TensorSource(x, y, rows, 2), LoaderSource(TensorDataset(x, torch.zeros(50)), y, rows, 2)


@pytest.mark.parametrize("start", [0, 2, 4])
@pytest.mark.parametrize("workers", [0, 1])
def test_loader_gives_the_same_batches_as_tensors(start, workers):
    tensors, loader = sources()
    loader.workers = workers
    order = torch.randperm(30, generator=generator(2))
    pairs = itertools.zip_longest(tensors.batches(7, order, start), loader.batches(7, order, start))
    count = 0
    for a, b in pairs:
        count += 1
        for field in ("x", "y", "task", "index"):
            assert torch.equal(getattr(a, field), getattr(b, field))
    assert count == 5 - start


class Process(torch.utils.data.Dataset):
    """Says for each sample which process read it."""

    def __len__(self):
        return 50

    def __getitem__(self, row):
        return torch.tensor([row, os.getpid()]), 0

    def digest(self, rows):
        return "0" * 64


@pytest.mark.parametrize(("random", "again"), [(False, True), (True, False)])
def test_the_same_processes_read_what_does_not_change(random, again):
    """FAULTS 60: evaluating fifty tasks started fifty times as many pools as there were tasks."""
    data, y = Process(), torch.zeros(50)
    tasks = [LoaderSource(data, y, torch.arange(t, 50, 5), t, workers=2, random=random) for t in range(5)]
    readers = [{pid for batch in task.batches(2) for pid in batch.x[:, 1].tolist()} for task in tasks]
    assert all(len(reader) == 2 and os.getpid() not in reader for reader in readers)
    assert len(set.union(*readers)) == (2 if again else 10)


def test_two_readings_at_once_do_not_disturb_each_other():
    data, y = Process(), torch.zeros(50)
    tasks = [LoaderSource(data, y, torch.arange(t, 50, 5), t, workers=1) for t in range(2)]
    for _ in range(2):
        pairs = list(zip(*(task.batches(3) for task in tasks), strict=True))
        for side, task in enumerate(tasks):
            assert torch.cat([pair[side].x[:, 0] for pair in pairs]).tolist() == task.rows.tolist()
    next(iter(tasks[0].batches(3)))  # a reading that ends early
    assert torch.cat([batch.x[:, 0] for batch in tasks[0].batches(3)]).tolist() == tasks[0].rows.tolist()


def test_start_skips_whole_batches():
    tensors, _ = sources()
    order = torch.randperm(30, generator=generator(2))
    assert [b.index.tolist() for b in tensors.batches(7, order)][2:] == [
        b.index.tolist() for b in tensors.batches(7, order, 2)
    ]


def test_joined_walks_every_sample_once_in_order():
    a, b = (TensorSource(torch.randn(20, 2), torch.arange(20), torch.arange(20), t) for t in (0, 1))
    source = Joined([a, b])
    order = torch.randperm(40, generator=generator(0))
    batches = list(source.batches(9, order))
    assert [len(x) for x in batches] == [9, 9, 9, 9, 4]
    assert sorted(i for x in batches for i in x.index.tolist()) == [*range(20), *(1 << 40 | i for i in range(20))]
    places = [i if i < 20 else (1 << 40 | (i - 20)) for i in order[:9].tolist()]
    assert sorted(batches[0].index.tolist()) == sorted(places)
    assert torch.equal(source.labels, torch.cat([a.labels, b.labels]))
    assert source.nbytes == a.nbytes + b.nbytes


@pytest.mark.parametrize("kind", ["tensors", "loader", "joined"])
def test_batches_without_samples_have_the_same_labels_and_ids_and_read_nothing(kind):
    class Refusing(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            raise AssertionError("read")

    y, rows = torch.arange(12) % 3, torch.arange(12) + 4
    tensors = TensorSource(torch.randn(20, 2), y, rows, task=1)
    source = {
        "tensors": tensors,
        "loader": LoaderSource(Refusing(), y, rows, task=1),
        "joined": Joined([tensors, TensorSource(torch.randn(20, 2), y, rows, task=2)]),
    }[kind]
    order = torch.randperm(len(source))
    expected = tensors if kind == "loader" else source
    pairs = zip(source.batches(5, order, 1, samples=False), expected.batches(5, order, 1), strict=True)
    for bare, full in pairs:
        assert bare.x.shape == (len(full), 0)
        for name in ("y", "task", "index"):
            assert torch.equal(getattr(bare, name), getattr(full, name))


def test_streams_of_one_process_share_their_samples():
    """Seeds trained at once read a step's samples in one go, and eight of them hold one copy."""
    a, b = (from_arrays("digits", class_order="random", seed=seed) for seed in (0, 1))
    assert a[0].train.shares_samples(b[0].train)
    ids = next(iter(b[1].train.batches(5))).index
    assert torch.equal(b[1].train.fetch(ids), next(iter(b[1].train.batches(5))).x)
    permuted = from_arrays("digits", "permuted", scenario="domain", seed=0)
    assert not permuted[1].train.shares_samples(permuted[1].train)  # each stream has its own pixels there
    assert a[0].train.shares_samples(a[1].train)  # under other ids, which lead to the same tensor
    ids = torch.cat([next(iter(a[t].train.batches(5))).index for t in (0, 1)])
    both = torch.cat([next(iter(a[t].train.batches(5))).x for t in (0, 1)])
    assert torch.equal(a[0].train.fetch(ids), both)
    assert len(set(ids.tolist())) == 10


def test_joined_tensors_are_read_in_one_go():
    """Tasks that share one tensor become one source; tasks with their own pixels stay several, in the same order."""
    stream = from_arrays("digits", seed=0)
    one, several = joined([t.train for t in stream.tasks]), Joined([t.train for t in stream.tasks])
    assert isinstance(one, TensorSource)
    assert one.nbytes == several.nbytes
    assert torch.equal(one.labels, several.labels)
    order = torch.randperm(len(one), generator=generator(3))
    for a, b in zip(one.batches(64, order), several.batches(64, order), strict=True):
        sort_a, sort_b = a.index.argsort(), b.index.argsort()
        for name in ("x", "y", "task", "index"):
            assert torch.equal(getattr(a, name)[sort_a], getattr(b, name)[sort_b])
    ids = next(iter(one.batches(64, order))).index
    assert torch.equal(one.fetch(ids), next(iter(one.batches(64, order))).x)
    permuted = from_arrays("digits", "permuted", scenario="domain", seed=0)
    assert isinstance(joined([t.train for t in permuted.tasks]), Joined)
