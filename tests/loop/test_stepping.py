"""Sharpness-aware minimisation against a loop by hand."""

import copy
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from frostline.core.rng import generator
from frostline.loop.training import run_stream
from frostline.models import mlp, slim_resnet18
from frostline.strategies import EWC, Chain, DERpp, Replay
from frostline.streams import from_arrays
from tests.speed.test_together import both


def test_a_step_is_taken_with_the_gradient_from_uphill(make_run):
    stream = from_arrays("digits", scenario="class", tasks=1, samples_per_class=20)
    run = make_run(stream=stream, epochs=2, sam=0.1)
    by_hand = copy.deepcopy(run.model)
    run_stream(run)
    weights, optimizer = list(by_hand.parameters()), torch.optim.SGD(by_hand.parameters(), lr=0.05)
    by_hand.train()
    for epoch in range(2):
        order = torch.randperm(len(stream[0].train), generator=generator(0, "order", 0, epoch))
        for batch in stream[0].train.batches(32, order):
            F.cross_entropy(by_hand(batch.x), batch.y).backward()
            gradient = [p.grad.clone() for p in weights]
            length = torch.cat([g.flatten() for g in gradient]).norm()
            stay = [p.detach().clone() for p in weights]
            for p, g in zip(weights, gradient, strict=True):
                p.data += 0.1 * g / length
            optimizer.zero_grad()
            F.cross_entropy(by_hand(batch.x), batch.y).backward()
            for p, value in zip(weights, stay, strict=True):
                p.data = value
            optimizer.step()
            optimizer.zero_grad()
    for found, expected in zip(run.model.parameters(), weights, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_second_pass_is_on_the_bill_and_leaves_statistics_alone(make_run):
    narrow = partial(slim_resnet18, filters=2)
    stream = from_arrays("digits", scenario="class", tasks=1, samples_per_class=20)
    plain, sharp = (make_run(stream=stream, model=narrow, max_steps=3, sam=rho) for rho in (0.0, 1e-9))
    run_stream(plain)
    run_stream(sharp)

    def flops(run):
        return sum(row.flops for row in run.meter.rows if row.phase == "train")

    assert flops(sharp) == pytest.approx(2 * flops(plain), rel=0.01)
    for (name, b), other in zip(plain.model.named_buffers(), sharp.model.buffers(), strict=True):
        torch.testing.assert_close(b, other, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("strategy", [lambda: Chain([Replay(), EWC(strength=1.0)]), DERpp])
def test_seeds_at_once_go_uphill_each_by_its_own_gradient(strategy, make_run):
    stream = from_arrays("digits", scenario="class", samples_per_class=20)
    model = partial(mlp, hidden=[16])
    both(lambda s: make_run(strategy(), stream=stream, model=model, seed=s, sam=0.05), seeds=(0, 1))


def test_gradients_are_clipped_each_seeds_to_its_own_length(make_run):
    stream = from_arrays("digits", scenario="class", tasks=1, samples_per_class=20)
    run = make_run(stream=stream, epochs=1, clip=0.3, seed=1)
    by_hand = copy.deepcopy(run.model)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05)
    together = [make_run(stream=stream, epochs=1, clip=0.3, seed=s) for s in (0, 1)]
    for one in together:
        one.keep_draws()
    run_stream(run)
    run_stream(*together)
    order = torch.randperm(len(stream[0].train), generator=generator(1, "order", 0, 0))
    by_hand.train()
    for batch in stream[0].train.batches(32, order):
        optimizer.zero_grad()
        F.cross_entropy(by_hand(batch.x), batch.y).backward()
        assert torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.3) > 0.3
        optimizer.step()
    for found, stacked, expected in zip(
        run.model.parameters(), together[1].model.parameters(), by_hand.parameters(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(stacked, expected, rtol=1e-4, atol=1e-6)
