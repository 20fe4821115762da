"""The slowly-changing regression: its inputs, its target net, and what is kept of them."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from frostline.core.checks import UsageError
from frostline.core.digests import source_digest
from frostline.core.rng import generator
from frostline.streams.slowly_changing import slowly_changing_regression


def _all(source):
    (batch,) = source.batches(len(source))
    return batch


@pytest.fixture(scope="module")
def stream():
    return slowly_changing_regression(tasks=12, samples_per_task=4000, seed=3)


def test_slow_inputs_stand_still_within_a_task_and_one_turns_from_task_to_task(stream):
    slow = []
    for task in stream.tasks:
        x = _all(task.train).x
        assert x.shape == (4000, 20)
        assert set(x.unique().tolist()) == {0.0, 1.0}
        assert (x[:, :15] == x[0, :15]).all()
        assert (x[:, 15:].mean(0) - 0.5).abs().max() < 0.04  # five standard errors
        slow.append(x[0, :15])
    assert [(a != b).sum().item() for a, b in pairwise(slow)] == [1] * 11


def test_all_slow_inputs_are_drawn_anew_where_asked():
    stream = slowly_changing_regression(tasks=200, samples_per_task=1, change="all")
    slow = torch.stack([task.test.x[0, :15] for task in stream.tasks])
    differ = (slow[1:] != slow[:-1]).sum(1).float()
    assert abs(differ.mean() - 7.5) < 0.7  # of fifteen fair coins; five standard errors


@pytest.mark.parametrize("threshold", ["code", "paper"])
def test_targets_are_those_of_the_threshold_net(threshold):
    stream = slowly_changing_regression(tasks=2, samples_per_task=50, threshold=threshold, seed=5)
    signs = np.where(torch.randint(2, (100 * 22 + 1,), generator=generator(5, "target net")).numpy() == 1, 1.0, -1.0)
    weight, bias, outgoing, last = signs[:2000].reshape(100, 20), signs[2000:2100], signs[2100:2200], signs[2200]
    batch = _all(stream[1].train)
    for x, y in zip(batch.x.numpy(), batch.y.numpy(), strict=True):
        total = last
        for unit in range(100):
            if threshold == "paper":  # weights of -1, the bias among them
                negative = (weight[unit] == -1).sum() + (bias[unit] == -1)
            else:  # (inputs - sum of the weights + bias) / 2, as in the authors' FixLTUNet
                negative = (20 - weight[unit].sum() + bias[unit]) / 2
            on = weight[unit] @ x + bias[unit] >= 0.7 * 21 - negative
            total += outgoing[unit] * on
        assert y == pytest.approx(total, abs=1e-5)


def test_test_data_are_every_combination_of_the_fast_inputs_once(stream):
    batch = _all(stream[4].test)
    assert len(batch) == 32 == len({tuple(row) for row in batch.x.tolist()})
    train = _all(stream[4].train)
    known = {tuple(x): y for x, y in zip(batch.x.tolist(), batch.y.tolist(), strict=True)}
    assert all(known[tuple(x)] == y for x, y in zip(train.x.tolist(), train.y.tolist(), strict=True))


def test_what_is_drawn_again_is_the_same_and_nothing_is_kept(stream):
    source = stream[7].train
    order = torch.randperm(4000)
    one, two = (list(source.batches(64, order, 5)) for _ in range(2))
    assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(one, two, strict=True))
    assert torch.equal(torch.cat([b.y for b in one]), source.labels[order[320:]])
    other = slowly_changing_regression(tasks=12, samples_per_task=4000, seed=4)
    assert source_digest(source) == source_digest(
        slowly_changing_regression(tasks=12, samples_per_task=4000, seed=3)[7].train
    )
    assert source_digest(source) != source_digest(other[7].train) != source_digest(other[6].train)
    assert source.nbytes == 4000 * 21 * 4


@pytest.mark.parametrize(("slow", "rows"), [(20, 1), (19, 2), (18, 4)])
def test_few_inputs_or_none_change_at_every_sample(slow, rows):
    (batch,) = slowly_changing_regression(tasks=2, samples_per_task=9, slow_inputs=slow)[1].test.batches(99)
    assert batch.x.shape == (rows, 20)


def test_more_fast_inputs_than_can_be_counted_out_are_refused():
    with pytest.raises(UsageError, match=r"slow_inputs=2 of stream.inputs=20 .* at most 12: stream.slow_inputs=8"):
        slowly_changing_regression(slow_inputs=2)
