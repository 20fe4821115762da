"""The dry step against the counter on real steps, and against the closed form for a chain of layers."""

import itertools
import random

import pytest
import torch
from torch.nn import functional as F

from frostline.costs import Reference, StepCosts
from frostline.flops import count_flops
from frostline.models import cnn, mlp, slim_resnet18
from frostline.scope import Scope, everything, layers

BUILD = {
    "mlp": lambda: mlp((1, 8, 8), 5, hidden=[12, 10, 8]),
    "cnn": lambda: cnn((1, 8, 8), 5, channels=[3, 4], hidden=6),
    "slim_resnet18": lambda: slim_resnet18((1, 8, 8), 5, filters=3),
}


@pytest.mark.parametrize("name", BUILD)
def test_dry_equals_real_for_random_thawed_sets(name):
    net, x, y = BUILD[name](), torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)
    groups, rng, costs = layers(net), random.Random(0), StepCosts.trace(net, x, None)
    for _ in range(8):
        chosen = frozenset(n for own in rng.sample(list(groups.values()), rng.randint(1, len(groups))) for n in own)
        with Scope(net, chosen).thawed():
            real = count_flops(lambda: F.cross_entropy(net(x), y).backward())
        assert costs(chosen) == real


def test_closed_form_of_a_chain():
    net, x = BUILD["mlp"](), torch.randn(4, 1, 8, 8)
    widths = [64, 12, 10, 8, 5]
    F_l = [2 * 4 * a * b for a, b in itertools.pairwise(widths)]
    groups, rng, costs = list(layers(net).values()), random.Random(1), StepCosts.trace(net, x, None)
    for _ in range(12):
        thawed = sorted(rng.sample(range(4), rng.randint(1, 4)))
        m = thawed[0]
        closed = sum(F_l[i] * (1 + (i in thawed) + (i > m)) for i in range(4))
        names = frozenset(n for i in thawed for n in groups[i])
        assert costs(names) == closed


def test_nothing_is_left_behind():
    net, x = BUILD["slim_resnet18"](), torch.randn(4, 1, 8, 8)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    costs = StepCosts.trace(net, x, None)
    reference = Reference.measure(
        net, x, torch.zeros(4, dtype=torch.long), None, lambda p: torch.optim.SGD(p, lr=0.1), repeats=2
    )
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert reference.flops_per_sample * 4 == costs.full == costs(everything(net))
    assert reference.seconds_per_sample > 0
