import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frostline.core.checks import UsageError
from frostline.core.scope import Scope
from frostline.core.types import masked
from frostline.loop.training import run_stream
from frostline.strategies import Chain, Cumulative, Joint, Replay, WeightedReplay
from frostline.streams import from_arrays
from tests.conftest import a_step
from tests.speed.test_together import both


def test_within_a_task_only_older_tasks_are_replayed(digits):
    replay = Replay(capacity=20)
    batch = next(iter(digits[0].train.batches(16)))
    assert len(replay.augment(a_step(incoming=batch), batch)) == 16
    replay.after_task(Scope(nn.Linear(1, 1), frozenset()), digits[0])
    batch = next(iter(digits[1].train.batches(16)))
    mixed = replay.augment(a_step(incoming=batch), batch)
    assert len(mixed) == 32
    assert mixed.task.tolist() == [1] * 16 + [0] * 16
    assert replay.work(16) == 16
    assert replay.work(64) == 20


def test_step_updates_offer_each_batch_as_it_passes(digits):
    replay = Replay(capacity=20, batch_size=8, update="step")
    sizes = [len(replay.augment(a_step(incoming=batch), batch)) for batch in digits[0].train.batches(5)]
    assert sizes[:4] == [5, 10, 13, 13]
    assert len(replay.memory) == 20


def test_replay_forgets_less_than_finetuning(make_run, digits):
    from frostline.core import metrics

    stream = from_arrays("digits", scenario="class")
    values = []
    for strategy in (None, Replay(capacity=200, buffer="class_balanced")):
        run = make_run(strategy, stream=stream, epochs=5)
        run_stream(run)
        values.append(metrics.all_metrics(metrics.matrix(run.progress.accuracy)))
    assert values[0]["average_accuracy"] < 0.3
    assert values[1]["average_accuracy"] > 0.7
    assert values[1]["forgetting"] < values[0]["forgetting"] / 2


def test_joint_waits_and_cumulative_grows(digits):
    joint, cumulative = Joint(), Cumulative()
    assert [joint.task(digits, i) is None for i in range(5)] == [True] * 4 + [False]
    sizes = [len(cumulative.task(digits, i).train) for i in range(5)]
    assert sizes == [100, 200, 300, 400, 500]
    assert cumulative.stored_bytes() == sum(t.train.nbytes for t in digits.tasks)
    batch = next(iter(joint.task(digits, 4).train.batches(500, torch.randperm(500))))
    assert sorted(set(batch.task.tolist())) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("bad", [{"capacity": 0}, {"batch_size": -3}, {"buffer": "rings"}, {"update": "stepp"}])
def test_bad_settings(bad):
    with pytest.raises(ValueError, match=r"nearest|Did you mean"):
        Replay(**bad)


@pytest.mark.parametrize("rule", ["loss", "mir"])
def test_what_is_retrieved_is_what_needs_it_most(rule, make_run):
    stream = from_arrays("digits", scenario="class", samples_per_class=30)
    replay = Replay(capacity=100, batch_size=8, retrieve=rule, candidates=25)
    run = make_run(replay, stream=stream, epochs=1, optimizer=partial(torch.optim.SGD, lr=0.2))
    checked = []

    def watch(step):
        drawn = []
        draw = replay.memory.draw
        replay.memory.draw = lambda size: drawn.append(draw(size)) or drawn[-1]
        found = Replay.draw(replay, step)
        del replay.memory.draw
        (pool,) = drawn
        model = copy.deepcopy(step.scope.model)
        visible = step.task.visible

        def losses():
            with torch.no_grad():
                return F.cross_entropy(masked(model(pool.x), visible), pool.y, reduction="none")

        scores = losses()
        if rule == "mir":
            F.cross_entropy(masked(model(step.incoming.x), visible), step.incoming.y).backward()
            for p in model.parameters():
                p.data -= step.learning_rate * p.grad
            scores = losses() - scores
        assert step.learning_rate in (0.0, 0.2)  # no optimizer while a step is priced
        if step.learning_rate:
            best = scores.sort(descending=True).values[:8]
            places = [pool.index.tolist().index(i) for i in found.index.tolist()]
            torch.testing.assert_close(scores[places].sort(descending=True).values, best, rtol=1e-3, atol=1e-5)
            checked.append(len(pool))
        return found

    replay.draw = watch
    run_stream(run)
    assert checked
    assert set(checked) == {25}


@pytest.mark.parametrize("rule", ["loss", "mir"])
def test_choosing_what_is_retrieved_is_on_the_bill_and_resumes(rule, make_run, count_every_step):
    run = make_run(Replay(capacity=60, retrieve=rule, update="step"), epochs=1)
    run_stream(run)
    assert sum(r.flops for r in run.meter.rows if r.phase == "train") == sum(count_every_step) > 0
    plain = make_run(Replay(capacity=60, update="step"), epochs=1)
    run_stream(plain)
    more = {"loss": 1.1, "mir": 1.5}[rule]
    assert sum(r.flops for r in run.meter.rows) > more * sum(r.flops for r in plain.meter.rows)


def test_gss_likeness_by_hand_and_what_is_kept_is_unlike(make_run):
    stream = from_arrays("digits", scenario="class", samples_per_class=30)
    replay = Replay(capacity=30, buffer="gss", update="step", compared=7)
    run = make_run(replay, stream=stream, epochs=1, batch_size=20)
    own, checked = Replay.likeness, []

    def watch(step):
        drawn = []
        draw = replay.memory.draw
        replay.memory.draw = lambda size: drawn.append(draw(size)) or drawn[-1]
        found = own(replay, step)
        del replay.memory.draw
        model, visible = copy.deepcopy(step.scope.model), step.task.visible

        def gradient(batch, i):
            model.zero_grad()
            F.cross_entropy(masked(model(batch.x[i : i + 1]), visible), batch.y[i : i + 1]).backward()
            return torch.cat([p.grad.flatten() for p in model.parameters()])

        if drawn:
            others = [gradient(drawn[0], i).clone() for i in range(len(drawn[0]))]
            for i in (0, len(step.incoming) - 1):
                g = gradient(step.incoming, i)
                cosines = [float(F.cosine_similarity(g, other, 0)) for other in others]
                assert found[i] == pytest.approx(max(cosines), abs=1e-4)
            checked.append(len(others))
        return found

    replay.likeness = watch
    run_stream(run)
    assert 7 in checked
    assert replay.memory.seen == 300


def test_gss_is_on_the_bill_and_learns_seeds_at_once_as_alone(make_run, count_every_step):
    def make(seed=0):
        return make_run(Replay(capacity=60, buffer="gss", update="step", seed=seed), epochs=1, seed=seed)

    run = make()
    run_stream(run)
    assert sum(r.flops for r in run.meter.rows if r.phase == "train") == sum(count_every_step) > 0
    both(make, seeds=(0, 1))


def test_gss_at_a_tasks_end_is_refused():
    with pytest.raises(UsageError, match="update=step"):
        Replay(buffer="gss")


@pytest.mark.parametrize(("share", "expected"), [("tasks", (0, 1 / 2, 2 / 3)), (0.5, (0, 0.5, 0.5)), (0, (0, 0, 0))])
def test_replayed_samples_have_their_share_of_the_loss(share, expected, make_run):
    stream = from_arrays("digits", scenario="class", samples_per_class=20, tasks=3, classes_per_task=2)
    seen = {}

    class Watching(WeightedReplay):
        def criterion(self, step, batch, logits):
            loss = super().criterion(step, batch, logits)
            means = [
                F.cross_entropy(logits[rows], batch.y[rows]) if rows.any() else logits.new_zeros(())
                for rows in (~batch.replayed, batch.replayed)
            ]
            seen.setdefault(step.task.index, []).append((loss.item(), *(mean.item() for mean in means)))
            return loss

    strategy = Chain([Replay(capacity=6, batch_size=4), Watching(share)])
    run_stream(make_run(strategy, stream=stream))
    for task, weight in enumerate(expected):
        for loss, came, replayed in seen[task]:
            assert loss == pytest.approx((1 - weight) * came + weight * replayed, rel=1e-5)


@pytest.mark.parametrize("share", ["task", 1.5, -0.1, float("nan")])
def test_a_share_of_the_loss_lies_between_nothing_and_all(share):
    with pytest.raises(UsageError, match="share"):
        WeightedReplay(share)
