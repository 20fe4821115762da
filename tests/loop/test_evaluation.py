"""Evaluation that starts where the model last changed."""

import copy
import time
from functools import partial

import pytest
import torch

from frostline.loop.training import run_stream
from frostline.models import mlp, slim_resnet18
from frostline.selectors import FirstK, LastK
from frostline.speed import fast
from frostline.streams import from_arrays

deep = partial(mlp, hidden=[24, 24, 24])


def evaluate(runs, moment):
    runs[0].backend.evaluate(runs, moment)
    return [run.progress.accuracy[-1] for run in runs]


def evaluations(run):
    return [row for row in run.meter.rows if row.phase == "evaluate"]


def test_rows_are_the_same_and_cost_less_where_a_prefix_stands_still(make_run):
    for model in (deep, partial(slim_resnet18, filters=2)):
        runs = [
            make_run(selector=LastK(k=1, warmup_tasks=1), model=model, epochs=1, prefix_cache=c)
            for c in ("off", "auto")
        ]
        for run in runs:
            run_stream(run)
        plain, reusing = runs
        assert plain.progress.accuracy == reusing.progress.accuracy
        for a, b in zip(plain.model.parameters(), reusing.model.parameters(), strict=True):
            assert torch.equal(a, b)
        flops = [[row.flops for row in evaluations(run)] for run in runs]
        assert (
            flops[0][:3] == flops[1][:3]
        )  # untrained, the first task, and the one after which it shows what stands still
        assert all(b < 0.7 * a for a, b in zip(flops[0][3:], flops[1][3:], strict=True))
        assert evaluations(reusing)[-1].stored_bytes > 0
        assert [row.samples for row in evaluations(plain)] == [row.samples for row in evaluations(reusing)]


def test_a_change_in_any_stage_before_is_noticed(make_run):
    """Everything that an evaluation could rest on is looked at, not what the selector says."""
    run, honest = (
        make_run(selector=LastK(k=1, warmup_tasks=1), model=deep, epochs=1, prefix_cache=c) for c in ("auto", "off")
    )
    for each in (run, honest):
        after = each.strategy.after_task

        def meddle(scope, task, after=after):
            after(scope, task)
            if task.index == 3:
                with torch.no_grad():
                    next(iter(scope.model.parameters())).mul_(-1)

        each.strategy.after_task = meddle
        run_stream(each)
    assert run.progress.accuracy == honest.progress.accuracy


def test_nothing_is_kept_where_the_first_stage_trains_or_room_is_short(make_run):
    for run in (
        make_run(selector=FirstK(k=1), model=deep, epochs=1, prefix_cache="auto"),
        make_run(selector=LastK(k=1, warmup_tasks=1), model=deep, epochs=1, prefix_cache="auto", prefix_cache_gib=1e-9),
    ):
        run_stream(run)
        assert all(row.stored_bytes == 0 for row in evaluations(run))


def test_a_resumed_run_has_the_same_bill(make_run):
    states = []

    def build(save=None):
        return make_run(selector=LastK(k=1, warmup_tasks=1), model=deep, epochs=1, prefix_cache="auto", save=save)

    whole = build(lambda state: states.append(copy.deepcopy(state)))
    run_stream(whole)
    second = build()
    second.load_state_dict(states[3])  # four tasks are learned
    run_stream(second)
    assert second.progress.accuracy == whole.progress.accuracy
    for a, b in zip(evaluations(whole), evaluations(second), strict=True):
        assert (a.flops, a.samples, a.steps, a.stored_bytes) == (b.flops, b.samples, b.steps, b.stored_bytes)


STREAMS = {
    "the same data": lambda seed: from_arrays("digits", scenario="task"),
    "the same data, all classes": lambda seed: from_arrays("digits", "rotated", tasks=2, scenario="domain"),
    "classes in another order": lambda seed: from_arrays(
        "digits", class_order="random", test_samples_per_class=20, seed=seed
    ),
    "tasks of other sizes": lambda seed: from_arrays("digits", class_order="random", seed=seed),
    "pixels in another order": lambda seed: from_arrays("digits", "permuted", tasks=2, scenario="domain", seed=seed),
}


@pytest.mark.parametrize("moment", [None, 0, 1])
@pytest.mark.parametrize("name", STREAMS)
def test_dense_models_are_evaluated_in_one_pass(name, moment, make_run, monkeypatch):
    def make():
        runs = [make_run(stream=STREAMS[name](seed), seed=seed) for seed in (0, 1, 2)]
        for run in runs:
            run.keep_draws()
        return runs

    passes = []
    whole = fast.evaluate_together
    monkeypatch.setattr(fast, "evaluate_together", lambda *given: passes.append(1) or whole(*given))
    apart, together = make(), make()
    rows = [evaluate([run], moment)[0] for run in apart]
    assert evaluate(together, moment) == rows
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(
            torch.tensor([x for x in one.progress.loss[-1] if x is not None]),
            torch.tensor([x for x in other.progress.loss[-1] if x is not None]),
        )
    assert len({tuple(row) for row in rows}) == 3  # each seed has a model of its own
    assert bool(passes) == (name != "tasks of other sizes")
    for one, other in zip(apart, together, strict=True):
        (a,), (b,) = evaluations(one), evaluations(other)
        assert (a.steps, a.samples, a.flops) == (b.steps, b.samples, b.flops)
        assert a.samples == sum(len(one.stream[j].test) for j, x in enumerate(rows[0]) if x is not None)


def test_the_time_of_one_pass_is_shared(make_run):
    runs = [make_run(seed=seed) for seed in (0, 1, 2, 3)]
    begin = time.perf_counter()
    evaluate(runs, None)
    wall = time.perf_counter() - begin
    assert 0 < sum(evaluations(run)[0].seconds for run in runs) <= wall


def test_convolutions_fill_a_cpu_alone(make_run, monkeypatch):
    monkeypatch.setattr(fast, "evaluate_together", None)
    runs = [make_run(model=partial(slim_resnet18, filters=2), seed=seed) for seed in (0, 1)]
    assert evaluate(runs, 0) == [evaluate([run], 0)[0] for run in runs]
