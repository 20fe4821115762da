"""Schedules against torch's own."""

import itertools
from functools import partial

import pytest
import torch

from frostline.loop.schedules import Constant, Cosine, Linear, OneCycle, Step
from frostline.loop.training import run_stream
from frostline.strategies import Strategy


def torchs(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Cosine(), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40)),
        (Cosine(floor=0.1), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40, eta_min=0.1)),
        (Linear(), lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, 40)),
        (Step(drops=3), lambda o: torch.optim.lr_scheduler.StepLR(o, 10, 0.1)),
        (Constant(), lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0, 1)),
    ],
)
def test_equal_to_torchs(ours, theirs):
    assert [ours(i, 40, 0, 1) for i in range(40)] == pytest.approx(torchs(theirs, 40), abs=1e-9)


def test_one_cycle_begins_peaks_and_ends_as_torchs():
    ours, steps = OneCycle(), 1000
    rates = [ours(i, steps, 0, 1) for i in range(steps)]
    theirs = torchs(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=steps + 1), steps)
    assert rates == pytest.approx(theirs, abs=0.005)


def test_warm_up_and_the_whole_run():
    rule = Cosine(warmup=4, per="run")
    rates = [rule(i, 10, t, 3) for t in range(3) for i in range(10)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))
    assert rates[-1] < 0.01
    assert [Constant(warmup=0.5)(i, 4, 0, 1) for i in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert Constant().constant
    assert not Constant(warmup=2).constant


def test_the_loop_steps_with_them_alone_and_at_once(make_run):
    """Against a loop by hand; and the strategy's own rates are multiplied with them."""

    class Half(Strategy):
        def rates(self, number, steps):
            return 0.5

    run = make_run(Half(), schedule=Linear(), optimizer=partial(torch.optim.SGD, lr=0.1), epochs=2)
    seen = []

    class Watch(Half):
        def after_step(self, step, batch, grads):
            seen.append((step.number, step.rate))

    run.strategy = Watch()
    run_stream(run)
    steps = max(n for n, _ in seen) + 1
    assert {n for n, _ in seen} == set(range(steps))
    assert all(rate == pytest.approx(0.5 * (1 - n / steps)) for n, rate in seen)  # of probes too
    runs = [make_run(Half(), schedule=Linear(), optimizer=partial(torch.optim.SGD, lr=0.1), epochs=2) for _ in range(3)]
    for each in runs[1:]:
        each.keep_draws()
    run_stream(runs[0])
    run_stream(*runs[1:])
    for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [{"per": "tusk"}, {"warmup": -1}, {"floor": 2}])
def test_bad_values(bad):
    with pytest.raises(ValueError, match=r"schedule\."):
        Cosine(**bad)


def test_max_steps_cut_a_task_short(make_run):
    run = make_run(max_steps=3)
    run_stream(run)
    assert [row.steps for row in run.meter.rows if row.phase == "train"] == [3] * 5
