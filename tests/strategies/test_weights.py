"""Strategies about whole weights: baselines, averages, merges, plasticity."""

import copy

import pytest
import torch

from frostline.core.scope import Scope
from frostline.core.structure import everything
from frostline.loop.run import Observer
from frostline.loop.training import run_stream
from frostline.models import mlp
from frostline.selectors import LastK
from frostline.strategies import (
    EMA,
    Chain,
    Cumulative,
    Finetune,
    FromScratch,
    Frozen,
    Independent,
    ShrinkAndPerturb,
    TaskArithmetic,
    WiSEFT,
)
from frostline.strategies.task_arithmetic import ties
from frostline.streams import from_arrays


class Rows(Observer):
    """Keep the weights after each task."""

    def __init__(self):
        self.weights = []

    def task_done(self, run, index):
        self.weights.append({n: p.detach().clone() for n, p in run.model.named_parameters()})


def watched(make_run, strategy, **settings):
    run = make_run(strategy, **settings)
    start = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    rows = Rows()
    run.observers = [rows]
    run_stream(run)
    return run, start, rows.weights


def test_from_scratch_a_task_is_what_it_is_alone(make_run, digits):
    _run, _start, weights = watched(make_run, FromScratch())
    alone = make_run(Finetune())
    alone.progress.begin_part(3)  # as if the first three had been learned
    alone.progress.accuracy = [[None] * 5] * 4
    alone.progress.loss = [[None] * 5] * 4
    from frostline.loop.training import learn_task

    learn_task([alone], 3)
    for n, p in alone.model.named_parameters():
        assert torch.equal(p, weights[3][n])


def test_retraining_on_everything_is_a_chain(make_run):
    run, *_ = watched(make_run, Chain([FromScratch(), Cumulative()]), epochs=20)
    assert min(run.progress.accuracy[-1]) > 0.9


def test_independent_models_forget_nothing(make_run):
    run, _start, _weights = watched(make_run, Independent())
    for task in range(5):
        column = [row[task] for row in run.progress.accuracy[task + 1 :]]
        assert len(set(column)) == 1
    scratch, *_ = watched(make_run, FromScratch())
    assert [run.progress.accuracy[t + 1][t] for t in range(5)] == [
        scratch.progress.accuracy[t + 1][t] for t in range(5)
    ]
    with pytest.raises(ValueError, match=r"stream\.scenario=task"):
        Independent().check(run.model, from_arrays("digits", scenario="class"))


def test_independent_models_under_a_selector_share_what_is_frozen(make_run):
    run, _start, weights = watched(make_run, Independent(), selector=LastK(k=1, warmup_tasks=1))
    assert len({row[1] for row in run.progress.accuracy[2:]}) == 1
    assert torch.equal(weights[0]["backbone.layer1.0.weight"], weights[4]["backbone.layer1.0.weight"])


def test_never_learning(make_run):
    run, start, weights = watched(make_run, Frozen(warmup_tasks=0))
    assert all(torch.equal(start[n], p) for n, p in weights[-1].items())
    assert all(len({a for a in column if a is not None}) == 1 for column in zip(*run.progress.accuracy, strict=True))


def test_the_average_answers_and_the_latest_weights_learn(make_run):
    slow, start, weights = watched(make_run, EMA(decay=1.0))
    _plain, _, same = watched(make_run, Finetune())
    assert all(torch.equal(weights[-1][n], same[-1][n]) for n in start)
    mean = copy.deepcopy(slow.strategy.mean)
    assert any(not torch.equal(mean[n], weights[-1][n]) for n in start)
    with slow.strategy.serving(slow.model, None):
        assert all(torch.equal(p, mean[n]) for n, p in slow.model.named_parameters())
    assert all(torch.equal(p, weights[-1][n]) for n, p in slow.model.named_parameters())


def test_the_average_is_that_of_the_formula(digits):
    from tests.conftest import a_step

    model = mlp(digits.shape, digits.classes, hidden=[3])
    strategy, scope = EMA(decay=0.5), Scope(model, everything(model))
    strategy.thawing(scope, digits[0])
    mean = float(model.head.bias[0].detach())
    for t in range(1, 8):
        with torch.no_grad():
            model.head.bias += 1
        strategy.after_step(a_step(scope), None, {})
        decay = min(0.5, (1 + t) / (10 + t))
        mean = decay * mean + (1 - decay) * float(model.head.bias[0].detach())
        assert float(strategy.mean["head.bias"][0]) == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("before", ["task", "start"])
def test_halfway_is_halfway(before, make_run):
    strategy, seen = WiSEFT(share=0.25, before=before), []
    after = strategy.after_task

    def note(scope, task):
        own = {n: p.detach().clone() for n, p in scope.model.named_parameters()}
        after(scope, task)
        seen.append((own, {n: p.detach().clone() for n, p in scope.model.named_parameters()}))

    strategy.after_task = note
    _run, start, weights = watched(make_run, strategy)
    assert all(torch.equal(seen[0][0][n], seen[0][1][n]) for n in start)  # the warm-up keeps what it learned
    for task in range(1, 5):
        old = weights[task - 1] if before == "task" else weights[0]
        for n in start:
            torch.testing.assert_close(seen[task][1][n], 0.75 * old[n] + 0.25 * seen[task][0][n])


def test_changes_add_up(make_run):
    strategy = TaskArithmetic(scale=0.5)
    _run, start, weights = watched(make_run, strategy)
    _scratch, _, own = watched(make_run, FromScratch())
    for n in start:
        expected = start[n] + 0.5 * sum(own[t][n] - start[n] for t in range(5))
        torch.testing.assert_close(weights[-1][n], expected, atol=1e-5, rtol=1e-4)


def test_ties_votes_by_hand():
    a, b, c = (
        torch.tensor([3.0, 0.1, -2.0, 0.0]),
        torch.tensor([1.0, 0.2, 4.0, 0.1]),
        torch.tensor([-2.0, 0.1, 3.0, 0.0]),
    )
    # the two largest of each: [3, 0, -2, 0], [1, 0, 4, 0], [-2, 0, 3, 0]; votes +2, 0, +5, 0
    assert ties([a, b, c], keep=0.5).tolist() == [2.0, 0.0, 3.5, 0.0]
    assert ties([a], keep=1.0).tolist() == a.tolist()


def test_shrinking_and_noise(make_run):
    strategy = ShrinkAndPerturb(shrink=0.5, noise=0.0)
    thawed = {}
    thawing = strategy.thawing

    def note(scope, task):
        thawing(scope, task)
        thawed[task.index] = {n: p.detach().clone() for n, p in scope.parameters.items()}

    strategy.thawing = note
    _run, start, weights = watched(make_run, strategy)
    assert all(torch.equal(thawed[0][n], start[n]) for n in start)
    for task in range(1, 5):
        assert all(torch.equal(thawed[task][n], 0.5 * weights[task - 1][n]) for n in start)
    noisy = ShrinkAndPerturb(shrink=0.0, noise=0.3, every="step")
    _, _, weights = watched(make_run, noisy)
    values = torch.cat([p.flatten() for p in weights[-1].values()])
    assert float(values.std()) == pytest.approx(0.3, rel=0.05)
