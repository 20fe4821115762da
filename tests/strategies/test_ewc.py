"""EWC against the sum of its terms written out."""

import pytest
import torch

from frostline.core.importance import squared_gradients
from frostline.core.scope import Scope
from frostline.core.structure import everything
from frostline.loop.training import run_stream
from frostline.models import mlp
from frostline.strategies import EWC
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
