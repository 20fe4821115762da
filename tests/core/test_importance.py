"""The Fisher information against the closed form of softmax regression."""

import pytest
import torch
from torch import nn

from frostline.core.importance import mean_by_layer, squared_gradients
from frostline.core.rng import generator
from frostline.core.structure import layers
from frostline.core.types import masked
from frostline.models import cnn, linear
from frostline.streams import from_arrays


@pytest.fixture(scope="module")
def task():
    return from_arrays("digits", tasks=1, scenario="class")[0]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = linear((1, 8, 8), 10)
    torch.nn.init.normal_(net.head.weight, std=0.2)
    return net


def closed_form(model, x, y=None):
    """Return the diagonal Fisher of the weights: E[(p_c - [c = y])^2 x_i^2], the expectation over y exact where None."""
    with torch.no_grad():
        p = model(x).softmax(1)
    squares = x.flatten(1).square()
    if y is None:
        return (p * (1 - p)).T @ squares / len(x)
    return (p - torch.nn.functional.one_hot(y, 10)).square().T @ squares / len(x)


def whole(task):
    return next(iter(task.train.batches(len(task.train))))


def test_exact_and_empirical_equal_the_closed_form(task, model):
    batch = whole(task)
    for labels, expected in (
        ("exact", closed_form(model, batch.x)),
        ("empirical", closed_form(model, batch.x, batch.y)),
    ):
        fisher = squared_gradients(model, task, task.train.batches(100), labels=labels)
        torch.testing.assert_close(fisher["head.weight"], expected, rtol=1e-4, atol=1e-7)


def test_sampled_tends_to_the_exact(task, model):
    exact = squared_gradients(model, task, task.train.batches(500), labels="exact")["head.weight"]
    rng, draws = generator(0), 30
    mean = sum(
        squared_gradients(model, task, task.train.batches(500), labels="sampled", generator=rng)["head.weight"]
        for _ in range(draws)
    )
    assert isinstance(mean, torch.Tensor)
    assert float((mean / draws - exact).norm() / exact.norm()) < 0.03


def test_it_is_not_the_square_of_the_mean_gradient(task, model):
    batch = whole(task)
    ours = squared_gradients(model, task, [batch], labels="empirical")["head.weight"]
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(batch.x), batch.y).backward()
    squared_mean = model.head.weight.grad.square()
    assert float(ours.sum()) > 3 * float(squared_mean.sum())
    batched = squared_gradients(model, task, [batch], labels="batched")["head.weight"]
    torch.testing.assert_close(batched, squared_mean)


def test_batched_is_the_mean_over_batches_of_the_squared_gradient_of_their_mean(task, model):
    batches = list(task.train.batches(100))
    found = squared_gradients(model, task, batches, labels="batched")
    for name in ("head.weight", "head.bias"):
        squares = []
        for batch in batches:
            model.zero_grad()
            torch.nn.functional.cross_entropy(model(batch.x), batch.y).backward()
            squares.append(model.get_parameter(name).grad.square())
        torch.testing.assert_close(found[name], torch.stack(squares).mean(0))


class Awkward(nn.Module):
    """What a shortcut for linear layers could get wrong: work in place, a shared weight, a layer used twice, 3-D input."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.sequence = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(4, 4)
        self.tied, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)
        self.also = nn.Linear(16, 16, bias=False)
        self.also.weight = self.tied.weight
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        h = torch.relu_(self.first(x.flatten(1)))
        h = torch.relu_(self.twice(torch.relu_(self.twice(h))))
        h = self.sequence(h.view(-1, 4, 4)).flatten(1)
        h = self.norm(self.also(torch.relu_(self.tied(h))))
        return self.head(h)


@pytest.mark.parametrize("build", [lambda: cnn((1, 8, 8), 10, channels=[4], hidden=8), Awkward], ids=["cnn", "awkward"])
@pytest.mark.parametrize("frozen", [False, True])
def test_per_example_equals_one_by_one_with_masks(build, frozen):
    stream = from_arrays("digits", scenario="class")
    torch.manual_seed(0)
    net = build()
    task = stream[1]
    batch = next(iter(task.train.batches(12)))
    net.requires_grad_(not frozen)  # importance is estimated over all weights, frozen or not
    ours = squared_gradients(net, task, [batch], labels="empirical")
    net.requires_grad_(True)
    expected = {n: torch.zeros_like(p) for n, p in net.named_parameters()}
    for i in range(12):
        net.zero_grad()
        mask = task.mask(batch).expand(len(batch), -1)
        logits = masked(net(batch.x[i : i + 1]), mask[i : i + 1])
        torch.nn.functional.cross_entropy(logits, batch.y[i : i + 1]).backward()
        for n, p in net.named_parameters():
            expected[n] += p.grad.square() / 12
    for n in expected:
        torch.testing.assert_close(ours[n], expected[n], rtol=1e-4, atol=1e-9)


def test_exact_with_invisible_classes_is_finite():
    stream = from_arrays("digits", scenario="task")
    net = linear((1, 8, 8), 10)
    fisher = squared_gradients(net, stream[1], stream[1].train.batches(50), labels="exact")["head.weight"]
    assert torch.isfinite(fisher).all()
    assert float(fisher[[0, 1, 4, 5]].abs().sum()) == 0  # rows of classes that this task does not see
    assert float(fisher[2:4].sum()) > 0


def test_mode_and_training_flags_are_left_alone(task):
    net = cnn((1, 8, 8), 10, channels=[4], hidden=8).train()
    squared_gradients(net, task, task.train.batches(64), labels="empirical")
    assert all(m.training for m in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_mean_by_layer():
    net = linear((4,), 2)
    squares = {"head.weight": torch.full((2, 4), 3.0), "head.bias": torch.zeros(2)}
    assert mean_by_layer(layers(net), squares) == {"head": pytest.approx(24 / 10)}


def test_unknown_labels_name_the_nearest(task, model):
    with pytest.raises(ValueError, match="Did you mean 'empirical'"):
        squared_gradients(model, task, [], labels="empircal")
