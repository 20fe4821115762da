"""The integer program against trying every subset."""

import itertools
import random

import pytest
import torch

from frostline.core.structure import head, layers
from frostline.costs import StepCosts, TaskCosts, totals
from frostline.loop.training import run_stream
from frostline.models import mlp, slim_resnet18, vit
from frostline.selectors import Budget
from frostline.selectors.budget import solve

BUILD = {
    "mlp": lambda: mlp((1, 8, 8), 5, hidden=[12, 10, 8, 16, 6]),
    "vit": lambda: vit((1, 8, 8), 5, patch=4, width=8, depth=1, heads=2),
}


def best_by_trying(costs, groups, values, always, fraction, reuse):
    best = -1.0
    for taken in itertools.product([False, True], repeat=len(groups)):
        names = always.union(*(own for own, t in zip(groups, taken, strict=True) if t))
        if costs.cached(names, reuse) <= fraction * costs.full:
            best = max(best, sum(v for v, t in zip(values, taken, strict=True) if t))
    return best


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("reuse", [1.0, 0.2])
def test_optimal_and_within_the_budget(name, reuse):
    torch.manual_seed(0)
    net, rng = BUILD[name](), random.Random(0)
    costs = StepCosts.trace(net, torch.randn(4, 1, 8, 8))
    groups = [own for own in layers(net).values() if not set(own) <= head(net)]
    for _ in range(12):
        values = [rng.random() for _ in groups]
        fraction = rng.uniform(0.45, 1.0)
        taken = solve(costs, groups, values, head(net), fraction, reuse)
        names = head(net).union(*(own for own, t in zip(groups, taken, strict=True) if t))
        assert costs.cached(names, reuse) <= fraction * costs.full
        value = sum(v for v, t in zip(values, taken, strict=True) if t)
        assert value == pytest.approx(best_by_trying(costs, groups, values, head(net), fraction, reuse))


def test_a_budget_that_is_exactly_a_choice_allows_it():
    net = BUILD["mlp"]()
    costs = StepCosts.trace(net, torch.randn(4, 1, 8, 8))
    groups = [own for own in layers(net).values() if not set(own) <= head(net)]
    wanted = head(net) | frozenset(groups[-1])
    taken = solve(costs, groups, [0, 0, 0, 0, 1], head(net), costs(wanted) / costs.full)
    assert taken == [False] * 4 + [True]


@pytest.mark.parametrize("value", ["fisher", "rgn", "spectrum", "uniform", "random"])
@pytest.mark.parametrize("cache_aware", [False, True])
def test_the_measured_task_stays_under_the_budget(value, cache_aware, make_run):
    fraction = 0.45 if cache_aware else 0.6
    selector = Budget(warmup_tasks=1, fraction=fraction, value=value, cache_aware=cache_aware)
    run = make_run(selector=selector, epochs=4, prefix_cache="auto" if cache_aware else "off")
    run_stream(run)
    full = run.progress.full_flops(run.progress.seen) / 5
    for task in range(1, 5):
        rows = [r for r in run.meter.rows if r.task == task and r.phase in ("train", "cache")]
        assert 0 < totals(rows)["flops"] <= fraction * full * 1.02  # tasks are not all of one size
        exact = sum(r.samples for r in rows if r.phase == "train") * run.progress.references[run.shape].flops_per_sample
        assert totals(rows)["flops"] <= fraction * exact
        if cache_aware:
            assert any(r.phase == "cache" for r in rows)


def test_an_infeasible_budget_names_the_smallest_feasible_fraction():
    net = slim_resnet18((1, 8, 8), 5, filters=3)
    x = torch.randn(4, 1, 8, 8)
    costs = TaskCosts(lambda: StepCosts.trace(net, x), epochs=5, samples=100, reuse=0.2)
    with pytest.raises(ValueError, match=r"The smallest feasible fraction is (0\.\d+)") as caught:
        Budget(fraction=0.1).check(net, costs)
    least = float(str(caught.value).rsplit(" ", 1)[1].rstrip("."))
    assert costs.step(head(net)) / costs.step.full == pytest.approx(least, abs=1e-4)
    Budget(fraction=least).check(net, costs)
    Budget(fraction=0.1, cache_aware=True).check(net, costs)


def test_counting_on_a_cache_that_is_not_there():
    net = mlp((4,), 2)
    x = torch.randn(2, 4)
    costs = TaskCosts(lambda: StepCosts.trace(net, x), epochs=1, samples=100)
    with pytest.raises(ValueError, match="counts on activations being reused"):
        Budget(cache_aware=True).check(net, costs)
    bare = torch.nn.Sequential(torch.nn.Linear(4, 2))
    bare.forward = lambda x, visible=None: bare[0](x)
    costs = TaskCosts(lambda: StepCosts.trace(bare, x), epochs=5, samples=100, reuse=0.2)
    with pytest.raises(ValueError, match=r"Sequential has no stages\(\)"):
        Budget(cache_aware=True).check(bare, costs)
    with pytest.raises(ValueError, match=r"selector\.value='fischer'.*Did you mean 'fisher'"):
        Budget(value="fischer")
