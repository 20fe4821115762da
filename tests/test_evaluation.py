"""Evaluation that starts where the model last changed."""

import copy
from functools import partial

import torch

from frostline.models import mlp, slim_resnet18
from frostline.selectors import FirstK, LastK
from frostline.training import run_stream

deep = partial(mlp, hidden=[24, 24, 24])


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
        assert plain.accuracy == reusing.accuracy
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
    assert run.accuracy == honest.accuracy


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
    assert second.accuracy == whole.accuracy
    for a, b in zip(evaluations(whole), evaluations(second), strict=True):
        assert (a.flops, a.samples, a.steps, a.stored_bytes) == (b.flops, b.samples, b.steps, b.stored_bytes)
