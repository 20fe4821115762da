"""The dry step against the counter on real steps, and against the closed form for a chain of layers."""

import itertools
import random

import pytest
import torch
from torch import nn

from frostline.core.scope import Scope
from frostline.core.structure import everything, head, layers
from frostline.core.types import Batch
from frostline.costs import Reference, StepCosts
from frostline.costs.flops import count_flops
from frostline.models import Classifier, cnn, mlp, resnet50, slim_resnet18, timm_model, vit
from frostline.models.staging import staged
from frostline.streams import from_arrays
from tests.models.test_transformers import tiny


class Shared(nn.Module):
    """One linear layer used twice, a skip past it, and an output that is the input's table: tied, as in language models."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 12)
        self.twice = nn.Linear(12, 12)
        self.side = nn.Linear(12, 12)
        self.out = nn.Linear(12, 7, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x, visible=None):
        h = self.table(x)
        h = torch.relu(self.twice(h)) + self.side(h)
        h = h + self.twice(h) * torch.sigmoid(self.side(h))
        return self.out(h.mean(1))


def decoder(family):
    return lambda: Classifier(staged(tiny(family)), 16, 5)


images = (4, 1, 8, 8)
BUILD = {
    "mlp": (lambda: mlp((1, 8, 8), 5, hidden=[12, 10, 8]), images),
    "cnn": (lambda: cnn((1, 8, 8), 5, channels=[3, 4], hidden=6), images),
    "slim_resnet18": (lambda: slim_resnet18((1, 8, 8), 5, filters=3), images),
    "resnet50": (lambda: resnet50((1, 8, 8), 5), images),
    "vit": (lambda: vit((1, 8, 8), 5, patch=4, width=8, depth=2, heads=2), images),
    "timm_vit": (lambda: timm_model((3, 32, 32), 5), (2, 3, 32, 32)),
    "bert": (decoder("bert"), (3, 9)),
    "gpt2": (decoder("gpt2"), (3, 9)),
    "llama": (decoder("llama"), (3, 9)),
    "shared weights and skips": (Shared, (3, 6)),
}


def batch(shape):
    return torch.randint(1, 7, shape) if len(shape) == 2 else torch.randn(shape)


@pytest.mark.parametrize("name", BUILD)
def test_any_thawed_set_is_priced_as_the_counter_counts_it(name):
    build, shape = BUILD[name]
    net, x, rng = build(), batch(shape), random.Random(0)
    costs = StepCosts.trace(net, x)
    names = [n for n, _ in net.named_parameters()]
    for number in range(12):
        chosen = frozenset(rng.sample(names, rng.randint(1, max(1, len(names) // (1 + number % 4)))))
        with Scope(net, chosen).thawed():
            real = count_flops(lambda: net(x).sum().backward())
        assert costs(chosen) == real
    assert costs.full == costs(everything(net))
    assert costs.forward == count_flops(lambda: net(x))


@pytest.mark.parametrize("name", [n for n in BUILD if n != "shared weights and skips"])
def test_stages_add_up_to_the_forward_pass_without_the_head(name):
    build, shape = BUILD[name]
    net, x = build(), batch(shape)
    costs = StepCosts.trace(net, x)
    assert sum(cost for cost, _ in costs.stages) == costs.forward - 2 * len(x) * net.head.in_features * 5
    assert frozenset().union(*(names for _, names in costs.stages)) == everything(net) - head(net)
    last = max(number for number, (_, names) in enumerate(costs.stages) if names)
    thawed = frozenset(list(costs.stages[last][1])[:1]) | head(net)
    frozen = sum(cost for cost, _ in costs.stages[:last])
    assert costs.cached(thawed, 0.2) == pytest.approx(costs(thawed) - 0.8 * frozen)


def test_a_trace_inside_a_counter_is_no_work():
    net, x = BUILD["mlp"][0](), batch(images)
    assert count_flops(lambda: StepCosts.trace(net, x)) == 0


def test_closed_form_of_a_chain():
    net, x = BUILD["mlp"][0](), torch.randn(4, 1, 8, 8)
    widths = [64, 12, 10, 8, 5]
    F_l = [2 * 4 * a * b for a, b in itertools.pairwise(widths)]
    groups, rng, costs = list(layers(net).values()), random.Random(1), StepCosts.trace(net, x)
    for _ in range(12):
        thawed = sorted(rng.sample(range(4), rng.randint(1, 4)))
        m = thawed[0]
        closed = sum(F_l[i] * (1 + (i in thawed) + (i > m)) for i in range(4))
        names = frozenset(n for i in thawed for n in groups[i])
        assert costs(names) == closed


def test_nothing_is_left_behind():
    net, x = BUILD["slim_resnet18"][0](), torch.randn(4, 1, 8, 8)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    costs, y = StepCosts.trace(net, x), torch.zeros(4, dtype=torch.long)
    batch, task = Batch(x, y, y, y), from_arrays("digits", scenario="domain", tasks=1)[0]
    reference = Reference().count(net, x).measure(net, task, batch, lambda p: torch.optim.SGD(p, lr=0.1), repeats=2)
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert reference.flops_per_sample * 4 == costs.full == costs(everything(net))
    assert reference.seconds_per_sample > 0
