"""Methods about single units: HAT, ReDo."""

from functools import partial

import numpy as np
import pytest
import torch

from frostline.core.checks import UsageError
from frostline.core.columns import in_columns
from frostline.core.scope import evaluating
from frostline.core.structure import hidden_units
from frostline.loop.training import run_stream
from frostline.models import cnn, mlp
from frostline.strategies import HAT, PNN, Chain, Finetune, ReDo
from frostline.streams import from_arrays

momentum = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)


def test_hat_answers_old_tasks_as_it_did_whatever_the_optimizer(make_run):
    """Gates are 0 or 1 to within what s_max leaves: what a learned task says hardly moves."""
    strategy = HAT()
    run = make_run(strategy, optimizer=momentum, epochs=20)
    (batch,) = run.stream[0].test.batches(1000)
    said = []
    after = strategy.after_task

    def note(scope, task):
        after(scope, task)
        with torch.no_grad(), evaluating(scope.model), strategy.serving(scope.model, run.stream[0]):
            said.append(scope.model(batch.x)[:, :2])

    strategy.after_task = note
    run_stream(run)
    for later in said[1:]:
        torch.testing.assert_close(later, said[0], atol=0.02, rtol=0.02)
    accuracy = np.array(run.progress.accuracy, dtype=float)
    assert accuracy[-1].mean() > 0.95
    assert (accuracy[-1] >= np.diag(accuracy[1:]) - 0.01).all()
    plain = make_run(Finetune(), optimizer=momentum, epochs=20)
    run_stream(plain)
    assert np.nanmean(np.array(plain.progress.accuracy[-1], dtype=float)) < accuracy[-1].mean()


def test_a_gate_is_one_on_what_a_unit_puts_out(make_run):
    strategy = HAT()
    run = make_run(strategy, epochs=3)
    run_stream(run)
    (batch,) = run.stream[1].test.batches(1000)
    model, gates = run.model, strategy.gates[1]
    with torch.no_grad(), evaluating(model):
        with strategy.serving(model, run.stream[1]):
            served = model(batch.x)
        handles = [
            model.get_submodule(unit.activation).register_forward_hook(lambda m, i, out, g=gates[unit.layer]: out * g)
            for unit in hidden_units(model)
        ]
        expected = model(batch.x)
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(served, expected)


def test_hat_moves_embeddings_by_the_compensated_gradient(make_run):
    """Against a gradient that is worked out by hand through one gate."""
    strategy = HAT(sparsity=0.0, rate=0.1)
    run = make_run(strategy, epochs=1)
    checked = []
    after = strategy.after_step

    def watch(step, batch, grads):
        before = {n: e.clone() for n, e in strategy.embeddings.items()}
        s, slopes = strategy._s, {n: e.grad.clone() for n, e in strategy._leaves.items()}
        after(step, batch, grads)
        for name, e in before.items():
            pull = slopes[name] * 400 / s * (torch.cosh((s * e).clamp(-50, 50)) + 1) / (torch.cosh(e) + 1)
            checked.append((strategy.embeddings[name], (e - 0.1 * pull).clamp(-6, 6)))

    strategy.after_step = watch
    run_stream(run)
    assert checked
    for found, expected in checked[:40]:
        torch.testing.assert_close(found, expected)


def test_hat_refuses_a_net_that_it_cannot_protect(digits):
    with pytest.raises(UsageError, match="packnet"):
        HAT().check(cnn((1, 8, 8), 10), digits)
    with pytest.raises(UsageError, match=r"scenario=task"):
        HAT().check(mlp((1, 8, 8), 10), from_arrays("digits", scenario="class"))


def test_a_dormant_unit_begins_again_and_says_the_same_at_first(make_run):
    strategy = ReDo(every=1, threshold=0.0)
    run = make_run(strategy, model=partial(mlp, hidden=[16, 16]), epochs=1)
    unit = hidden_units(run.model)[0]
    weight, bias = run.model.get_parameter(f"{unit.layer}.weight"), run.model.get_parameter(f"{unit.layer}.bias")
    with torch.no_grad():
        bias[3] = -1e6  # it never says anything
    seen = []
    after = strategy.after_step

    def watch(step, batch, grads):
        with torch.no_grad(), evaluating(step.scope.model):
            before = step.scope.model(batch.x)
            after(step, batch, grads)
            seen.append((before, step.scope.model(batch.x), float(bias[3]), weight[3].clone()))

    strategy.after_step = watch
    run_stream(run)
    before, later, now, row = seen[1]  # the first is the probe, which leaves no trace
    torch.testing.assert_close(before, later)
    assert now == 0.0
    assert float(row.abs().max()) <= 64**-0.5
    assert strategy.drawn == strategy.taken


def test_redo_looks_only_now_and_then(make_run):
    one, other = make_run(Finetune(), epochs=1), make_run(Chain([ReDo(every=10**6)]), epochs=1)
    run_stream(one)
    run_stream(other)
    assert one.progress.accuracy == other.progress.accuracy


def test_pnn_answers_old_tasks_exactly_as_it_did(make_run):
    strategy = PNN()
    run = make_run(strategy, optimizer=momentum, epochs=10)
    (batch,) = run.stream[0].test.batches(1000)
    said, after = [], strategy.after_task

    def note(scope, task):
        after(scope, task)
        with torch.no_grad(), evaluating(scope.model), strategy.serving(scope.model, run.stream[0]):
            said.append(scope.model(batch.x))

    strategy.after_task = note
    run_stream(run)
    assert all(torch.equal(later, said[0]) for later in said)
    accuracy = np.array(run.progress.accuracy, dtype=float)
    assert (accuracy[-1] == np.diag(accuracy[1:])).all()
    assert accuracy[-1].mean() > 0.95
    widths = [[column.in_features for column in layer.columns] for layer in in_columns(run.model)]
    assert widths == [[64] * 5, *([[32 * (k + 1) for k in range(5)]] * 2)]
    later = [column for layer in in_columns(run.model) for column in layer.columns[1:]]
    assert strategy.stored_bytes() == 4 * sum(p.numel() for column in later for p in column.parameters())


def test_pnn_by_hand(make_run):
    """Equation 1: a column's layer takes the sum of what it makes of every column of the layer before."""
    strategy = PNN()
    net = mlp((5,), 3, hidden=[4, 4])
    for index in range(2):
        strategy.prepare(net, index)
    one, two, head = (layer.columns for layer in in_columns(net))
    strategy._activate(1)
    x = torch.randn(7, 5)
    a0, a1 = torch.relu(one[0](x)), torch.relu(one[1](x))
    b0 = torch.relu(two[0](a0))
    b1 = torch.relu(a0 @ two[1].weight[:, :4].T + a1 @ two[1].weight[:, 4:].T + two[1].bias)
    torch.testing.assert_close(net(x), b0 @ head[1].weight[:, :4].T + b1 @ head[1].weight[:, 4:].T + head[1].bias)
    net(x).sum().backward()
    assert all(p.grad is None for columns in (one, two, head) for p in columns[0].parameters())


def test_pnn_grows_the_same_column_for_the_same_seed():
    nets = [mlp((5,), 3, hidden=[4]) for _ in range(2)]
    for net in nets:
        strategy = PNN(seed=3)
        strategy.prepare(net, 0)
        strategy.prepare(net, 1)
    fresh = [list(in_columns(net)[0].columns[1].parameters()) for net in nets]
    assert all(torch.equal(a, b) for a, b in zip(*fresh, strict=True))


@pytest.mark.parametrize(
    ("model", "scenario", "said"), [(cnn, "task", "Expected (a perceptron|such a net)"), (mlp, "class", "task")]
)
def test_pnn_refuses_what_it_cannot(model, scenario, said, make_run):
    run = make_run(PNN(), model=model, stream=from_arrays("digits", scenario=scenario, samples_per_class=10))
    with pytest.raises(UsageError, match=said):
        run.strategy.check(run.model, run.stream)
