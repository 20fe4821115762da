"""What a row of the matrices does not say: what broke, which classes are known, and what knowing the task would be worth."""

import copy

import numpy as np
import pytest
import torch

from frostline.core import metrics
from frostline.core.scope import evaluating
from frostline.loop.run import Observer
from frostline.loop.training import run_stream
from frostline.records.results import _by_class, metrics_of
from frostline.strategies import Replay
from frostline.streams import from_arrays
from tests.speed.test_together import both


def answers(run, task, moment):
    """The model's own answers to a task's test data, [N, C], and the labels; written without the loop."""
    (batch,) = task.test.batches(10_000)
    with torch.no_grad(), evaluating(run.model):
        logits = run.model(batch.x)
    seen = torch.zeros(10, dtype=torch.bool)
    seen[[c for t in run.stream.tasks[: moment + 1] for c in t.classes]] = True
    return logits, batch.y, seen


def test_everything_by_hand(make_run):
    stream = from_arrays("digits", scenario="class", samples_per_class=60)
    run = make_run(Replay(capacity=40), stream=stream, epochs=4)
    right_before: dict[int, torch.Tensor] = {}
    flips, aware = [], []

    class Watch(Observer):
        def task_done(self, run, index):
            lost = won = count = 0
            row = []
            for j in range(index + 1):
                task = run.stream[j]
                logits, y, seen = answers(run, task, index)
                right = logits.masked_fill(~seen, -torch.inf).argmax(1) == y
                own = torch.zeros(10, dtype=torch.bool)
                own[list(task.classes)] = True
                row.append(float((logits.masked_fill(~own, -torch.inf).argmax(1) == y).float().mean()))
                if j in right_before:
                    lost += int((right_before[j] & ~right).sum())
                    won += int((~right_before[j] & right).sum())
                    count += len(y)
                right_before[j] = right
            aware.append(row)
            if count:
                flips.append([lost, won, count])

    run.observers = [Watch()]
    run_stream(run)
    assert run.progress.flips == flips
    assert any(lost for lost, _, _ in flips)
    for found, row in zip(run.progress.aware[1:], aware, strict=True):
        assert found[: len(row)] == pytest.approx(row)
    expected = np.mean([lost / count for lost, _, count in flips])
    assert metrics.negative_flip_rate(run.progress.flips) == pytest.approx(expected)
    by_class = _by_class(stream, run.progress, "test")
    for task in stream.tasks:
        logits, y, _ = answers(run, task, 4)
        for c in task.classes:
            assert by_class[str(c)] == pytest.approx(float((logits.argmax(1)[y == c] == c).float().mean()))
    found = metrics.all_metrics(
        metrics.matrix(run.progress.accuracy), aware=metrics.matrix(run.progress.aware), flips=run.progress.flips
    )
    assert found["task_aware_accuracy"] == pytest.approx(np.mean(aware[-1]))
    assert found["task_aware_accuracy"] > found["average_accuracy"]
    sizes = torch.bincount(torch.cat([t.test.labels for t in stream.tasks])).tolist()
    mean = np.average(list(by_class.values()), weights=[sizes[int(c)] for c in by_class])
    hits = sum(a * len(t.test) for a, t in zip(run.progress.accuracy[-1], stream.tasks, strict=True))
    assert mean == pytest.approx(hits / sum(len(t.test) for t in stream.tasks))


def test_where_the_task_is_known_there_is_nothing_to_add(make_run):
    run = make_run(epochs=1)  # task-incremental
    run_stream(run)
    assert all(value is None for row in run.progress.aware for value in row)
    assert (
        metrics.all_metrics(metrics.matrix(run.progress.accuracy), aware=metrics.matrix(run.progress.aware))[
            "task_aware_accuracy"
        ]
        is None
    )


def test_resumed_and_seeds_at_once_say_the_same(make_run):
    stream = from_arrays("digits", scenario="class", samples_per_class=20)
    states = []

    def make(seed=0, save=None):
        return make_run(
            Replay(capacity=20, seed=seed), stream=stream, epochs=1, seed=seed, save=save, checkpoint_every_s=0.0
        )

    whole = make(save=lambda state: states.append(copy.deepcopy(state)))
    run_stream(whole)
    second = make()
    second.load_state_dict(next(s for s in states if s["progress"]["task"] == 3))
    run_stream(second)
    assert (second.progress.flips, second.progress.aware) == (whole.progress.flips, whole.progress.aware)
    assert all(torch.equal(a, b) for a, b in zip(second.progress.right, whole.progress.right, strict=True))
    for one, other in zip(*both(make, seeds=(0, 1)), strict=True):
        np.testing.assert_allclose(
            np.array(one.progress.aware, float), np.array(other.progress.aware, float), atol=0.03
        )
        assert np.abs(np.array(one.progress.flips) - np.array(other.progress.flips)).max() < 10


def test_a_checkpoint_from_before_there_was_any_of_it_goes_on(make_run):
    stream = from_arrays("digits", scenario="class", samples_per_class=20)
    states = []
    run = make_run(
        stream=stream, epochs=1, save=lambda state: states.append(copy.deepcopy(state)), checkpoint_every_s=0.0
    )
    run_stream(run)
    old = next(s for s in states if s["progress"]["task"] == 2)
    for key in ("aware", "within", "right", "flips"):
        del old["progress"][key]
    second = make_run(stream=stream, epochs=1)
    second.load_state_dict(old)
    run_stream(second)
    assert second.progress.accuracy == run.progress.accuracy
    assert [row[0] is None for row in second.progress.aware] == [True] * 3 + [False] * 3
    assert second.progress.aware[-1] == run.progress.aware[-1]
    found = metrics_of(second.progress, 5)
    assert found["task_aware_accuracy"] == metrics_of(run.progress, 5)["task_aware_accuracy"]
