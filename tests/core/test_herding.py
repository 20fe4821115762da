"""Herding and the contrastive loss against brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from frostline.core.buffers import Buffer
from frostline.core.contrast import supervised_contrast
from frostline.core.herding import herded, herding_order
from frostline.core.types import Batch
from frostline.models import mlp
from frostline.streams import from_arrays


def gap(z, chosen):
    """How far the mean of some rows is from the mean of all."""
    return np.linalg.norm(z.mean(0) - z[chosen].mean(0))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 15), st.integers(0, 1000))
def test_herding_takes_what_brute_force_finds_best(samples, width, count, seed):
    """Algorithm 4 of the paper, every sample tried: equally good ones may come in either order."""
    z = np.random.default_rng(seed).normal(size=(samples, width))
    chosen = herded(torch.from_numpy(z), count).tolist()
    assert len(set(chosen)) == len(chosen) == min(count, samples)
    for number in range(len(chosen)):
        before = chosen[:number]
        best = min(gap(z, [*before, place]) for place in range(samples) if place not in before)
        assert gap(z, chosen[: number + 1]) == pytest.approx(best, abs=1e-9)


def test_each_class_has_an_order_of_its_own():
    stream = from_arrays("digits", scenario="class", samples_per_class=12)
    model = mlp(stream.shape, stream.classes, hidden=[8]).eval()
    order = herding_order(model, stream[1].train, 5)
    (batch,) = stream[1].train.batches(100)
    with torch.no_grad():
        z = batch.x
        for stage in model.stages():
            z = stage(z)
    z = F.normalize(z).double().numpy()
    for label in (2, 3):
        rows = np.flatnonzero(batch.y.numpy() == label)
        own = order[rows]
        assert sorted(own[np.isfinite(own)].tolist()) == [0, 1, 2, 3, 4]
        first = np.argsort(own)[:5]
        best = min(gap(z[rows], [place]) for place in range(len(rows)))
        assert gap(z[rows], first[:1]) == pytest.approx(best, abs=1e-6)
        assert gap(z[rows], first) < gap(z[rows], list(range(5)))


def test_a_herded_memory_keeps_the_first_of_each_class():
    memory = Buffer(6, "herding")

    def offer(label, orders):
        x = torch.tensor([[100 * label + order] for order in orders])
        y = torch.full((len(orders),), label)
        memory.add(Batch(x, y, y * 0, x[:, 0]), np.array(orders, dtype=float))

    offer(0, [3, 1, 0, 2, 5, 4])
    assert sorted(memory.all().index.tolist()) == [0, 1, 2, 3, 4, 5]
    offer(1, [1, 0, 2, 3])
    assert sorted(memory.all().index.tolist()) == [0, 1, 2, 100, 101, 102]
    offer(2, [0])  # a class of one sample
    assert sorted(memory.all().index.tolist()) in ([0, 1, 2, 100, 101, 200], [0, 1, 100, 101, 102, 200])
    with pytest.raises(ValueError, match="order"):
        memory.add(memory.all())


def test_the_contrastive_loss_is_that_of_the_formula():
    rng = torch.Generator().manual_seed(0)
    z, y = F.normalize(torch.randn(9, 4, generator=rng)), torch.tensor([0, 0, 1, 1, 1, 2, 0, 2, 3])
    came = torch.tensor([1, 1, 1, 1, 0, 0, 0, 1, 1], dtype=torch.bool)
    same = y[:, None] == y
    for among, anchors in ((torch.ones(9, 9, dtype=torch.bool), torch.ones(9, dtype=torch.bool)), (same | came, came)):
        losses = []
        for i in range(9):
            others = [j for j in range(9) if j != i and among[i, j]]
            positives = [j for j in range(9) if j != i and y[j] == y[i]]
            if not anchors[i] or not positives:
                continue
            below = sum(np.exp(float(z[i] @ z[j]) / 0.1) for j in others)
            losses.append(-np.mean([np.log(np.exp(float(z[i] @ z[p]) / 0.1) / below) for p in positives]))
        found = supervised_contrast(z, same, among, anchors, 0.1)
        assert float(found) == pytest.approx(np.mean(losses), rel=1e-5)


def test_nobody_of_ones_kind_is_no_loss_and_no_nan():
    z = F.normalize(torch.randn(3, 4)).requires_grad_()
    alone = torch.eye(3, dtype=torch.bool)
    loss = supervised_contrast(z, alone, ~alone | alone, torch.ones(3, dtype=torch.bool), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert z.grad is not None
    assert bool(z.grad.isfinite().all())
