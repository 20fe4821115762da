"""Evaluations within tasks: they show what the ends of tasks do not, and change nothing."""

import copy
import csv
import itertools

import numpy as np
import pytest

from frostline.core import metrics
from frostline.core.checks import UsageError
from frostline.loop import watching
from frostline.loop.run import Observer
from frostline.loop.settings import TrainerConfig
from frostline.loop.training import run_stream
from frostline.models import mlp
from frostline.selectors import LISA
from frostline.strategies import Replay
from tests.conftest import with_states
from tests.contract.test_contract import CHANGING, STRATEGIES, build_selector, build_strategy, model_for, momentum
from tests.speed.test_together import both


@pytest.mark.parametrize(
    ("strategy", "selector"),
    [*itertools.product(STRATEGIES, ["last_k"]), *itertools.product(["finetune", "replay"], ["everything", *CHANGING])],
)
def test_looking_changes_nothing(strategy, selector, make_run):
    runs = []
    for every in (None, 3):
        model = model_for(selector, strategy)
        runs.append(
            make_run(
                build_strategy(strategy), build_selector(selector), model=model, optimizer=momentum, prefix_cache="auto",
                evaluate_every=every, evaluate_samples=every and 20,
            )
        )  # fmt: skip
        run_stream(runs[-1])
    a, b = runs
    assert a.progress.accuracy == b.progress.accuracy
    for (name, x), y in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        assert x.equal(y), name
    bills = [[(r.task, r.steps, r.samples, r.flops) for r in run.meter.rows if r.phase == "train"] for run in runs]
    assert bills[0] == bills[1]
    assert not a.progress.within
    if any(steps > 3 for _, steps, _, _ in bills[0]):
        assert b.progress.within
        spent = [sum(r.flops for r in run.meter.rows if r.phase == "evaluate") for run in runs]
        assert spent[1] > spent[0]


def test_when_and_on_what(make_run, digits):
    run = make_run(epochs=2, evaluate_every=3)  # 100 samples in batches of 32: 8 steps a task
    run_stream(run)
    assert [row[:2] for row in run.progress.within] == [[t, 8 * t + s] for t in range(5) for s in (3, 6)]
    for task, _, *accuracies in run.progress.within:
        assert [value is not None for value in accuracies] == [j <= task for j in range(5)]
    part = make_run(epochs=2, evaluate_every=3, evaluate_samples=10)
    run_stream(part)
    assert all(round(10 * value, 9) % 1 == 0 for row in part.progress.within for value in row[2:] if value is not None)


def test_resumed_and_seeds_at_once_have_the_same_rows(make_run):
    def make(seed=0, save=None):
        return make_run(
            Replay(capacity=20, seed=seed), epochs=2, evaluate_every=3, seed=seed, save=save, checkpoint_every_s=0.0
        )

    whole, states = with_states(make)
    for state in (next(s for s in states if (s["progress"]["task"], s["progress"]["step"]) == (2, 4)), states[-2]):
        second = make()
        second.load_state_dict(copy.deepcopy(state))
        run_stream(second)
        assert second.progress.within == whole.progress.within
        for task, (total, steps) in whole.progress.losses.items():
            assert second.progress.losses[task] == (pytest.approx(total), steps)
            assert steps == whole.meter.find(task, "train").steps
    apart, together = both(make, seeds=(0, 1))
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(
            np.array(one.progress.within, float), np.array(other.progress.within, float), atol=0.05
        )


def test_short_stretches_are_looked_up_from_too(make_run, monkeypatch):
    """LISA's, or those between two evaluations: there was neither progress nor a checkpoint as long as a task went on."""
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 0.05)
    seen, saved = [], []

    class Watch(Observer):
        def progress(self, run, moment):
            seen.append(moment.step)

    run = make_run(
        selector=LISA(k=1, interval=1), epochs=300, model=lambda s, c: mlp(s, c, hidden=[64, 64]), max_steps=400,
        save=lambda state: saved.append(state["progress"]["step"]), checkpoint_every_s=0.0,
    )  # fmt: skip
    run.observers = [Watch()]
    run.stream = type(run.stream)(**{**vars(run.stream), "tasks": run.stream.tasks[:1]})
    run_stream(run)
    assert len(seen) > 2
    assert any(0 < step < 400 for step in saved)


def test_metrics_by_hand():
    """Three tasks, a look in the middle of each; worked out on paper."""
    nan = np.nan
    R = np.array([[0, 0, 0], [0.9, nan, nan], [0.7, 0.8, nan], [0.5, 0.6, 1.0]])
    within = np.array([[0, 5, 0.6, nan, nan], [1, 15, 0.4, 0.2, nan], [2, 25, 0.8, 0.3, 0.1]])
    means = [0.6, 0.3, 0.4, 0.9, 0.75, 0.7]
    assert metrics.anytime_accuracy(R, within) == pytest.approx(np.mean(means))
    gaps = [0.9 - 0.4, ((0.7 - 0.8) + (0.8 - 0.3)) / 2]
    assert metrics.stability_gap(R, within) == pytest.approx(np.mean(gaps))
    assert metrics.worst_case_within(R, within) == pytest.approx(1 / 3 + 2 / 3 * np.mean([0.4, 0.3]))
    found = metrics.all_metrics(R, within=within)
    assert found["stability_gap"] == pytest.approx(np.mean(gaps))
    assert metrics.all_metrics(R)["stability_gap"] is None
    one = metrics.all_metrics(R[:2, :1], within=within[:1, :3])
    assert one["stability_gap"] is None
    assert one["worst_case_within"] == pytest.approx(0.9)


def test_files_and_the_figure(cli, tmp_path):
    done = cli(
        tmp_path, "stream=split_digits", "trainer.evaluate_every=2", "trainer.evaluate_samples=30", "hydra.run.dir=a",
        "trainer.epochs=1", "tracking=none", "cost.reference_steps=0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(csv.reader((tmp_path / "a" / "within.csv").read_text().splitlines()))
    assert rows[0][:2] == ["task", "steps_taken"]
    assert len(rows) > 5
    assert (tmp_path / "a" / "figures" / "accuracy_within.png").stat().st_size > 10_000
    done = cli(tmp_path, "stream=split_digits", "trainer.evaluate_every=0")
    assert done.returncode == 1
    assert "trainer.evaluate_every" in done.stderr


def test_samples_without_evaluations_are_refused():
    with pytest.raises(UsageError, match=r"trainer\.evaluate_every=STEPS beside it"):
        TrainerConfig(evaluate_samples=10).check()
