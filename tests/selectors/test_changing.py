"""Rules that change within a task, and the seam of the loop that they go through."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from frostline.core.structure import blocks, everything, head
from frostline.loop.run import Observer
from frostline.loop.training import run_stream
from frostline.models import mlp, vit
from frostline.selectors import LISA, AutoFreeze, BAdam, Change, ExceptFirstK, FirstK, FreezeOut, LastK, Selector

TASK = SimpleNamespace(index=1)
deep = partial(mlp, hidden=[16, 16, 16, 16])


def test_lisa_draws_other_blocks_every_interval(digits):
    net = vit((1, 8, 8), 10, patch=4, width=8, depth=4, heads=2)
    rule, task = LISA(k=2, interval=5, norms="outside", seed=3), digits[1]
    patches = {"pos_embed", "patch_embed.weight", "patch_embed.bias"}
    always = head(net) | {f"backbone.patches.{n}" for n in patches}
    seen = []
    for step in range(0, 60, 5):
        change = rule.during(net, task, rule(net, task, None), step, 60)
        assert change.until == step + 5
        assert always <= change.names
        drawn = [i for i, b in enumerate(blocks(net)) if any("linear1" in n for n in b) and b <= change.names]
        assert len(drawn) <= 2
        seen.append(tuple(drawn))
    assert len(set(seen)) > 2
    assert rule.during(net, task, everything(net), 0, 60).names == rule(net, task, None)  # a pure function of the step
    norms = {n for n in everything(net) if "norm" in n}
    assert norms <= LISA(k=1)(net, task, None)
    with pytest.raises(ValueError, match="nearest valid value is"):
        LISA(k=99).check(net, None)


@pytest.mark.parametrize("kept", ["reset", "keep"])
def test_lisa_drops_the_optimizer_state_of_what_freezes_again(kept, make_run):
    sizes = []

    class Watch(Observer):
        def task_done(self, run, index):
            sizes.append(run.progress.state_bytes[-1]["optimizer_bytes"])

    run = make_run(
        selector=LISA(k=1, interval=3),
        model=deep,
        optimizer=partial(torch.optim.Adam, lr=1e-3),
        optimizer_state=kept,
        epochs=3,
    )
    run.observers = [Watch()]
    run_stream(run)
    full = 2 * sum(p.numel() * 4 for p in run.model.parameters())
    assert run.progress.state_bytes[0]["full_optimizer_bytes"] == pytest.approx(full, rel=1e-2)
    assert max(sizes) < 0.75 * full  # one block and the head at a time
    assert bool(run.progress.optimizer_memory) == (kept == "keep")


def test_state_of_what_stays_thawed_goes_on(make_run):
    """A change that thaws the same names in another order of stretches equals no change at all."""

    class Restless(Selector):
        def change(self, model, task, names, step, steps):
            return Change(names if step % 2 == 0 else names | {"backbone.layer1.0.weight"}, until=step + 1)

    class Calm(Selector):
        pass

    runs = [make_run(selector=rule(), optimizer=partial(torch.optim.Adam, lr=1e-3)) for rule in (Restless, Calm)]
    for run in runs:
        run_stream(run)
    for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(a, b)

    class Reopening(Selector):
        def change(self, model, task, names, step, steps):
            without = names - {"backbone.layer1.0.bias"}
            return Change(names if step % 4 < 2 else without, until=step + 2)

    run = make_run(selector=Reopening(), optimizer=partial(torch.optim.Adam, lr=1e-3), optimizer_state="keep", epochs=1)
    run_stream(run)
    memory = run.progress.optimizer_memory
    assert memory["head.weight"]["step"] > memory["backbone.layer1.0.bias"]["step"] > 0


def test_freezeout_anneals_and_freezes_by_its_formula(digits):
    torch.manual_seed(0)
    net = deep((1, 8, 8), 10)
    rule, steps = FreezeOut(t0=0.5), 1000
    groups = [*blocks(net), head(net)]
    for step in (0, 120, 130, 400, 999):
        change = rule.during(net, digits[0], everything(net), step, steps)
        for i, group in enumerate(groups):
            end = (0.5 + 0.5 * i / 4) ** 3
            assert (group <= change.names) == (step / steps < end)
            if step / steps < end:
                rate = 0.5 * (1 + math.cos(math.pi * step / steps / end)) / end
                assert all(change.rates[n] == pytest.approx(rate) for n in group)
        assert change.until == step + 1
    plain = FreezeOut(t0=0.5, cubic=False, scaled=False).during(net, digits[0], everything(net), 0, steps)
    assert set(plain.rates.values()) == {1.0}


def test_freezeout_travels_as_far_in_every_block():
    """Scaled, the sum of the rates over a block's life is half the steps, whatever its end."""
    net = deep((1, 8, 8), 10)
    rule, steps = FreezeOut(t0=0.5), 2000
    total = dict.fromkeys(everything(net), 0.0)
    for step in range(steps):
        for name, rate in rule.change(net, None, everything(net), step, steps).rates.items():
            total[name] += rate / steps
    assert all(value == pytest.approx(0.5, abs=0.01) for value in total.values())


def test_freezeout_costs_less_and_can_use_the_cache(make_run):
    runs = {}
    for mode in ("off", "auto"):
        runs[mode] = make_run(selector=FreezeOut(t0=0.4), model=deep, epochs=10, prefix_cache=mode)
        run_stream(runs[mode])
    spent = {mode: sum(r.flops for r in run.meter.rows if r.phase in ("train", "cache")) for mode, run in runs.items()}
    assert spent["auto"] < spent["off"] < 0.9 * runs["off"].progress.full_flops(runs["off"].progress.seen)
    for a, b in zip(runs["auto"].model.parameters(), runs["off"].model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert (
        len([r for r in runs["auto"].meter.rows if r.phase == "train"]) == 5
    )  # one row a task, however many stretches


def feed(rule, net, scale):
    rule.observe({n: torch.full_like(p, scale.get(n.split(".")[1], 1.0)) for n, p in net.named_parameters()})


def test_autofreeze_advances_to_the_first_block_at_or_above_the_median(digits):
    net = deep((1, 8, 8), 10)
    rule, task = AutoFreeze(intervals=4), digits[0]
    assert rule.during(net, task, everything(net), 0, 40) == Change(everything(net), until=10)
    feed(rule, net, {})
    assert rule.during(net, task, everything(net), 10, 40).names == everything(net)  # nothing to compare with yet
    feed(rule, net, {"layer1": 1.01, "layer2": 0.9, "layer3": 1.5, "layer4": 1.02})  # eta .01 .1 .5 .02, median .06
    change = rule.during(net, task, everything(net), 20, 40)
    assert change.names == everything(net) - blocks(net)[0]
    feed(rule, net, {"layer2": 0.9, "layer3": 1.5, "layer4": 3.0})  # eta 0 0 2: the median is 0, nothing is below it
    assert rule.during(net, task, everything(net), 30, 40).names == everything(net) - blocks(net)[0]
    assert rule.during(net, task, everything(net), 0, 40).names == everything(net)  # a new task starts afresh


def test_autofreeze_with_gradients_that_are_all_zero_freezes_nothing(digits):
    net = deep((1, 8, 8), 10)
    rule = AutoFreeze(intervals=4)
    rule.during(net, digits[0], everything(net), 0, 40)
    for step in (10, 20, 30):
        feed(rule, net, {f"layer{i}": 0.0 for i in range(1, 5)})
        assert rule.during(net, digits[0], everything(net), step, 40).names == everything(net)


def test_autofreeze_accumulates_what_the_loop_computes(make_run):
    rule = AutoFreeze(intervals=2)
    run = make_run(selector=rule, model=deep, epochs=10)
    run_stream(run)
    assert rule.stored_bytes() > 0
    assert all(math.isfinite(n) and n > 0 for n in rule._norms)


@pytest.mark.parametrize(
    ("order", "expected"),
    [("ascending", [0, 1, 2, 3, 0]), ("descending", [3, 2, 1, 0, 3]), ("interleaved", [0, 2, 1, 3, 0])],
)
def test_badam_takes_block_after_block(order, expected, digits):
    net, task = deep((1, 8, 8), 10), digits[1]
    rule = BAdam(order=order, interval=5)
    seen = []
    for step in range(0, 25, 5):
        change = rule.during(net, task, frozenset(), step, 60)
        assert change.until == step + 5
        assert head(net) <= change.names
        (own,) = [i for i, block in enumerate(blocks(net)) if block <= change.names]
        assert change.names == blocks(net)[own] | head(net)
        seen.append(own)
    assert seen == expected
    assert rule.during(net, task, frozenset(), 3, 60).names == rule(net, task, None)


def test_badam_at_random_gives_every_block_a_turn_and_the_head_one_where_it_is_to(digits):
    net, task = deep((1, 8, 8), 10), digits[1]
    rule = BAdam(interval=1, seed=2, with_head=False)
    turns = [[rule.during(net, task, frozenset(), 5 * turn + n, 60).names for n in range(5)] for turn in range(4)]
    for turn in turns:
        assert sorted(map(sorted, turn)) == sorted(map(sorted, [*blocks(net), head(net)]))
    assert len({tuple(map(frozenset, turn)) for turn in turns}) > 1


def test_lisa_without_embeddings_and_head(digits):
    net = vit((1, 8, 8), 10, patch=4, width=8, depth=4, heads=2)
    names = LISA(k=1, norms="outside", with_embeddings=False, with_head=False)(net, digits[1], None)
    assert not names & head(net)
    assert not any("patches" in name for name in names)
    assert any("linear1" in name for name in names)


def test_a_share_of_the_depth():
    net = deep((1, 8, 8), 10)
    every = blocks(net)
    assert FirstK(k=0.5)(net, TASK, None) == head(net).union(*every[:2])
    assert LastK(k=0.25)(net, TASK, None) == head(net) | every[3]
    assert LastK(k=0.01)(net, TASK, None) == head(net) | every[3]
    assert ExceptFirstK(k=0.75)(net, TASK, None) == head(net) | every[3]
    assert LastK(k=0)(net, TASK, None) == head(net)
    with pytest.raises(ValueError, match="whole number"):
        LastK(k=1.5)
