"""Penalties on moving: SI, MAS, RWalk, L2-SP, against slow loops and closed forms."""

from functools import partial

import pytest
import torch

from frostline.core.checks import UsageError
from frostline.core.importance import sensitivity
from frostline.core.scope import Scope
from frostline.core.structure import everything
from frostline.loop.training import run_stream
from frostline.models import cnn, mlp
from frostline.strategies import EWC, L2SP, MAS, SI, RWalk
from frostline.strategies.base import Strategy
from tests.conftest import a_step

STEPS = partial(torch.optim.SGD, lr=0.02)


def recorded(make_run, strategy, **settings):
    """Run two tasks, noting weights and gradients of each step as a strategy beside it sees them."""
    notes, last = [], {}
    after = strategy.after_step

    def note(step, batch, grads):
        now = {n: p.detach().clone() for n, p in step.scope.parameters.items()}
        if not last or any(not torch.equal(now[n], last[n]) for n in now):  # a probe moves nothing
            notes.append((step.task.index, {n: g.clone() for n, g in grads.items()}, now))
            last.update(now)
        after(step, batch, grads)

    strategy.after_step = note
    run = make_run(strategy, optimizer=STEPS, epochs=1, **settings)
    start = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    last.update(start)
    run_stream(run)
    return notes, start, run


def test_the_path_integral_is_the_sum_over_steps_of_the_tasks_own_gradient(make_run):
    strategy = SI(strength=1.0, clip=False)
    notes, start, _run = recorded(make_run, strategy)
    importance = {n: torch.zeros_like(p) for n, p in start.items()}
    centre, before = None, start
    for task in range(5):
        begin, path = before, {n: torch.zeros_like(p) for n, p in start.items()}
        for index, grads, weights in notes:
            if index != task:
                continue
            for n, g in grads.items():
                pull = 0.0 if centre is None else 2 * importance[n] * (before[n] - centre[n])
                path[n] -= (g - pull) * (weights[n] - before[n])
            before = weights
        for n in path:
            importance[n] = importance[n] + path[n] / ((before[n] - begin[n]) ** 2 + 0.1)
        centre = before
    for n, value in importance.items():
        torch.testing.assert_close(strategy.importance[n], value, rtol=1e-3, atol=1e-6)


def test_small_steps_downhill_add_up_to_the_fall_of_the_loss(make_run):
    """Zenke et al. 2017: the path integral of the gradient field is the change of the loss."""
    strategy = SI()
    kept = {}
    strategy.after_task = lambda scope, task: kept.update(strategy.path)
    run = make_run(strategy, optimizer=partial(torch.optim.SGD, lr=1e-3), batch_size=1000, epochs=40)
    task = run.stream[0]

    def loss():
        with torch.no_grad():
            (batch,) = task.train.batches(1000)
            return float(task.objective.loss(task.logits(run.model, batch), batch.y))

    before = loss()

    class Enough(Exception):
        pass

    def stop(state):
        if run.progress.task == 1:
            raise Enough

    run.save = stop
    with pytest.raises(Enough):
        run_stream(run)
    assert sum(float(p.sum()) for p in kept.values()) == pytest.approx(before - loss(), rel=2e-2)


@pytest.mark.parametrize("build", [partial(mlp, hidden=[7]), cnn], ids=["dense", "convolutions"])
def test_sensitivity_is_each_samples_own(build, digits):
    torch.manual_seed(0)
    model, task = build(digits.shape, digits.classes).eval(), digits[1]
    batch = next(iter(task.train.batches(6)))
    expected = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for i in range(6):
        one = batch.rows(slice(i, i + 1))
        model.zero_grad()
        model(one.x)[:, task.mask(one)[0]].square().sum().backward()
        for n, p in model.named_parameters():
            expected[n] += p.grad.abs() / 6
    for n, value in sensitivity(model, task, [batch]).items():
        torch.testing.assert_close(value, expected[n], rtol=1e-4, atol=1e-6)


def test_mas_adds_tasks_up_and_fades_them(make_run):
    for decay in (1.0, 0.5):
        strategy, seen = MAS(decay=decay), []
        after = strategy.after_task

        def note(scope, task, strategy=strategy, after=after, seen=seen):
            after(scope, task)
            seen.append({n: t.clone() for n, t in strategy.importance.items()})

        strategy.after_task = note
        run_stream(make_run(strategy, epochs=1))
        for n, value in seen[1].items():
            assert (value >= decay * seen[0][n] - 1e-7).all()


def test_the_walk_is_that_of_a_slow_loop(make_run):
    strategy = RWalk(strength=0.0, every=2)
    notes, start, _run = recorded(make_run, strategy)
    fisher = {n: torch.zeros_like(p) for n, p in start.items()}
    before, old, taken = start, {}, 0
    for task in range(5):
        score, path, since = ({n: torch.zeros_like(p) for n, p in start.items()} for _ in range(3))
        since = before
        for index, grads, weights in notes:
            if index != task:
                continue
            taken += 1
            for n, g in grads.items():
                fisher[n] = 0.9 * g**2 + 0.1 * fisher[n]
                path[n] = path[n] - g * (weights[n] - before[n])
            if taken % 2 == 0:
                for n in score:
                    score[n] = score[n] + (path[n] / (0.5 * fisher[n] * (weights[n] - since[n]) ** 2 + 1e-3)).clamp(
                        min=0
                    )
                    path[n] = torch.zeros_like(path[n])
                since = weights
            before = weights
        old = {n: s if not old else (old[n] + s) / 2 for n, s in score.items()}
    largest = [max(float(t.max()) for t in of.values()) for of in (fisher, old)]
    for n in start:
        expected = fisher[n] / largest[0] + old[n] / largest[1]
        torch.testing.assert_close(strategy.importance[n], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("to_start", "head"), [(False, 0.5), (True, 2.0)])
def test_the_pull_to_the_start(to_start, head, digits):
    torch.manual_seed(0)
    model = mlp(digits.shape, digits.classes, hidden=[5])
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    strategy = L2SP(strength=2.0, head_strength=0.5, to_start=to_start)
    scope = Scope(model, everything(model))
    strategy.thawing(scope, digits[0])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    strategy.thawing(scope, digits[0])  # later on: the start stays
    strategy.penalty(a_step(scope), None, torch.zeros(1)).backward()
    for n, p in model.named_parameters():
        outside = n.startswith("head") and not to_start
        expected = 0.5 * (start[n] + 1) if outside else torch.full_like(p, 2.0)
        torch.testing.assert_close(p.grad, expected)


@pytest.mark.parametrize(("build", "factor"), [(EWC, 0.5), (SI, 1.0), (MAS, 1.0), (RWalk, 1.0)])
def test_the_pull_is_the_gradient_of_the_penalty(build, factor, digits):
    model = mlp(digits.shape, digits.classes, hidden=[5])
    strategy = build(strength=3.0)
    for n, p in model.named_parameters():
        strategy.importance[n], strategy.centre[n] = torch.rand_like(p), torch.randn_like(p)
    value = strategy.penalty(a_step(Scope(model, everything(model))), None, torch.zeros(1))
    terms = [(strategy.importance[n] * (p - strategy.centre[n]) ** 2).sum() for n, p in model.named_parameters()]
    assert float(value.detach()) == pytest.approx(float(factor * 3.0 * sum(terms).detach()), rel=1e-5)
    value.backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(2 * factor * 3.0 * strategy.pulls[n], p.grad)


def test_wrong_settings_are_named():
    for build, name in ((SI, "si.damping"), (MAS, "mas.decay"), (RWalk, "rwalk.every"), (L2SP, "l2_sp.head_strength")):
        with pytest.raises(UsageError, match=name):
            build(**{name.split(".")[1]: -1})
    assert Strategy().recalls() is False
