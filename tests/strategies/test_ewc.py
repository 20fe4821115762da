"""EWC against the sum of its terms written out."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from frostline.core import metrics
from frostline.core.examples import dense_layers
from frostline.core.importance import squared_gradients
from frostline.core.kronecker import curvature, rows
from frostline.core.objectives import Regression
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.structure import everything
from frostline.core.types import masked
from frostline.loop.training import run_stream
from frostline.models import mlp
from frostline.strategies import EWC
from frostline.streams import from_arrays
from tests.conftest import a_step


@pytest.fixture
def parts(digits):
    torch.manual_seed(0)
    net = mlp(digits.shape, digits.classes, hidden=[16])
    return net, Scope(net, everything(net)), digits


def learn_three_tasks(ewc, net, scope, stream):
    """Return each task's Fisher information and weights, the weights shifted between tasks."""
    terms = []
    for t in range(3):
        fisher = squared_gradients(net, stream[t], stream[t].train.batches(64), labels="empirical")
        terms.append((fisher, {n: p.detach().clone() for n, p in net.named_parameters()}))
        ewc.after_task(scope, stream[t])
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.05 * torch.randn_like(p))
    return terms


def gradient(net, value):
    net.zero_grad()
    value.backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def test_separate_equals_the_sum_of_one_quadratic_a_task(parts):
    net, scope, stream = parts
    ewc = EWC(strength=7.0, mode="separate", labels="empirical", samples=None)
    terms = learn_three_tasks(ewc, net, scope, stream)
    written_out = sum(
        7.0 / 2 * (fisher[n] * (p - old[n]).square()).sum() for fisher, old in terms for n, p in net.named_parameters()
    )
    ours = ewc.penalty(a_step(scope), None, torch.zeros(()))
    torch.testing.assert_close(gradient(net, ours), gradient(net, written_out), rtol=1e-3, atol=1e-5)


def test_online_fades_the_old_and_centres_on_the_latest(parts):
    net, scope, stream = parts
    ewc = EWC(strength=7.0, mode="online", decay=0.5, labels="empirical", samples=None)
    terms = learn_three_tasks(ewc, net, scope, stream)
    f = {n: 0.25 * terms[0][0][n] + 0.5 * terms[1][0][n] + terms[2][0][n] for n, _ in net.named_parameters()}
    written_out = sum(7.0 / 2 * (f[n] * (p - terms[2][1][n]).square()).sum() for n, p in net.named_parameters())
    torch.testing.assert_close(ewc.penalty(a_step(scope), None, torch.zeros(())), written_out, rtol=1e-4, atol=1e-6)


def test_only_thawed_weights_are_penalised_but_all_are_protected(parts):
    net, _, stream = parts
    ewc = EWC(labels="empirical")
    head = Scope(net, frozenset({"head.weight"}))
    ewc.after_task(head, stream[0])
    assert set(ewc.importance) == everything(net)
    with torch.no_grad():
        net.backbone.layer1[0].weight.add_(1.0)
    assert ewc.penalty(a_step(head), None, torch.zeros(())).item() == 0.0


def test_memory_does_not_grow_with_the_tasks(parts):
    net, scope, stream = parts
    ewc = EWC(labels="empirical", samples=32)
    ewc.after_task(scope, stream[0])
    after_one = ewc.stored_bytes()
    ewc.after_task(scope, stream[1])
    assert ewc.stored_bytes() == after_one == 2 * 4 * sum(p.numel() for p in net.parameters())


def test_a_strong_penalty_holds_the_weights(make_run):
    """At a strength that plain SGD can bear, the weights end nearer to where the first task left them."""
    free, held = make_run(EWC(strength=0.0)), make_run(EWC(strength=50.0))
    starts = []
    for run in (free, held):
        states = []
        run.save = lambda state, states=states: states.append(state["model"]["head.weight"].clone())
        run_stream(run)
        starts.append((run.model.head.weight - states[0]).norm().item())
    assert starts[1] < starts[0]


@pytest.mark.parametrize(
    "bad", [{"strength": -1}, {"strength": float("nan")}, {"decay": 2}, {"mode": "onlin"}, {"samples": 0}]
)
def test_bad_settings(bad):
    with pytest.raises(ValueError, match=r"strategy\.ewc"):
        EWC(**bad)


def whole_fisher(net, name, task, batch):
    """The Fisher information of a layer's weights and biases, [n, n], written out over classes and examples."""
    total = None
    for i in range(len(batch)):
        raw = net(batch.x[i : i + 1])
        p = masked(raw, task.mask(batch.rows(slice(i, i + 1)))).softmax(1).squeeze(0).detach()
        for label in p.nonzero().squeeze(1).tolist():
            visible = masked(net(batch.x[i : i + 1]), task.mask(batch.rows(slice(i, i + 1))))
            loss = F.cross_entropy(visible, torch.tensor([label]))
            layer = net.get_submodule(name)
            weight, bias = torch.autograd.grad(loss, [layer.weight, layer.bias])
            g = torch.cat((weight, bias[:, None]), 1).flatten()
            part = p[label] * torch.outer(g, g) / len(batch)
            total = part if total is None else total + part
    return total


def test_kronecker_factors_are_the_exact_fisher_information_of_one_example(digits):
    """There the expectation of the product is the product of the expectations."""
    torch.manual_seed(0)
    net = mlp(digits.shape, digits.classes, hidden=[5])
    (name,) = [n for n in dense_layers(net) if n != "head"]
    batch = next(iter(digits[1].train.batches(1)))
    factors = curvature(net, digits[1], [batch], "exact", None)
    for layer in (name, "head"):
        G, A = factors[layer]
        torch.testing.assert_close(torch.kron(G, A), whole_fisher(net, layer, digits[1], batch), rtol=1e-3, atol=1e-6)


def test_kronecker_factors_are_exact_where_the_output_has_a_curvature_of_its_own():
    """A linear net with a squared loss, over all its data: G is the same at every example."""
    stream = from_arrays("digits", tasks=1, scenario="class", samples_per_class=10)
    task = replace(stream[0], objective=Regression(), visible=None)
    net = mlp(stream.shape, 1, hidden=[])
    (batch,) = task.train.batches(1000)
    ewc = EWC(strength=3.0, curvature="kronecker", labels="sampled", samples=None)
    factors = [curvature(net, task, [batch], "sampled", generator(0, "draw", n))["head"] for n in range(200)]
    G = torch.stack([own[0] for own in factors]).mean()  # the gradient's variance: 4 x 1/2
    assert float(G) == pytest.approx(2.0, rel=0.02)
    ewc.layers = [{"head": [torch.tensor([[2.0]]), factors[0][1], rows(net, "head").detach().clone()]}]
    with torch.no_grad():
        before = net(batch.x)
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    found = ewc.penalty(a_step(Scope(net, everything(net))), None, torch.zeros(()))
    expected = 3.0 / 2 * 2.0 * (net(batch.x) - before).square().mean()  # the loss's own second-order rise
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_kronecker_ewc_learns_resumes_and_forgets_less(mode, make_run):
    stream = from_arrays("digits", kind="permuted", scenario="domain", tasks=3, samples_per_class=40)

    def build(**more):
        ewc = EWC(strength=1.0, curvature="kronecker", mode=mode)
        return make_run(ewc, stream=stream, epochs=20, optimizer=partial(torch.optim.SGD, lr=0.05), **more)

    states = []
    whole = build(save=lambda state: states.append(copy.deepcopy(state)))
    run_stream(whole)
    second = build()
    second.load_state_dict(states[len(states) // 2])
    run_stream(second)
    assert whole.progress.accuracy == second.progress.accuracy
    assert len(whole.strategy.layers) == (3 if mode == "separate" else 1)
    assert whole.strategy.importance == {}
    plain = make_run(stream=stream, epochs=20, optimizer=partial(torch.optim.SGD, lr=0.05))
    run_stream(plain)

    def forgotten(run):
        return metrics.all_metrics(metrics.matrix(run.progress.accuracy))["forgetting"]

    assert forgotten(whole) < 0.4 * forgotten(plain)  # with a diagonal of the same strength 0.8
