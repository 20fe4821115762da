import pytest
import torch
from torch import nn

from frostline.core.scope import Scope
from frostline.loop.training import run_stream
from frostline.strategies import Cumulative, Joint, Replay
from tests.conftest import a_step


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
    from frostline.streams import from_arrays

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
