import copy
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from frostline.core.types import masked
from frostline.loop import evaluation
from frostline.loop.run import Diverged
from frostline.loop.settings import TrainerConfig
from frostline.loop.training import run_stream
from frostline.models import mlp
from frostline.selectors import HeadOnly, LastK
from frostline.strategies import Strategy
from frostline.streams import from_arrays


def test_the_matrix_has_the_rows_and_nulls_of_the_contract(make_run):
    run = make_run()
    run_stream(run)
    assert len(run.progress.accuracy) == 6
    filled = [[v is not None for v in row] for row in run.progress.accuracy]
    assert filled[0] == [True] * 5
    for i in range(1, 6):
        assert filled[i] == [j <= i for j in range(5)]
    assert run.progress.accuracy[5][4] > 0.7


def test_accuracy_equals_scikit_learn(make_run):
    from sklearn.metrics import accuracy_score

    run = make_run()
    run_stream(run)
    run.model.eval()
    for j, task in enumerate(run.stream.tasks):
        batch = next(iter(task.test.batches(len(task.test))))
        with torch.no_grad():
            predicted = masked(run.model(batch.x), run.stream.visible_at(4, j)).argmax(1)
        assert run.progress.accuracy[5][j] == pytest.approx(accuracy_score(batch.y, predicted))


def test_equals_a_loop_written_by_hand(make_run, digits):
    """The same mathematics in ten lines gives the same weights, bit for bit."""
    from frostline.core.rng import derive, generator

    run = make_run(epochs=2, batch_size=32)
    run_stream(run)
    torch.manual_seed(derive(0, "model"))
    net = mlp(digits.shape, digits.classes, hidden=[32, 32])
    for t, task in enumerate(digits.tasks):
        whole = next(iter(task.train.batches(len(task.train))))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        for epoch in range(2):
            order = torch.randperm(len(whole), generator=generator(0, "order", t, epoch))
            for rows in order.split(32):
                logits = masked(net(whole.x[rows]), task.visible[t])
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(logits, whole.y[rows]).backward()
                optimizer.step()
    for a, b in zip(net.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_no_number_names_task_epoch_and_step(make_run):
    saved = []
    run = make_run(optimizer=partial(torch.optim.SGD, lr=0.05), save=lambda state: saved.append(copy.deepcopy(state)))
    first_step = []

    class Poison(type(run.strategy)):
        def criterion(self, step, batch, logits):
            loss = super().criterion(step, batch, logits)
            if batch.task[0] == 2:
                first_step.append(1)
                if len(first_step) > 7:  # one probe a shape of batch, then steps of the second epoch
                    loss = loss * float("nan")
            return loss

    run.strategy = Poison()
    with pytest.raises(Diverged, match=r"nan in task 2 .*epoch 1, step \d"):
        run_stream(run)
    assert [saved[-1]["progress"][key] for key in ("task", "part", "step")] == [2, 0, 0]
    assert all(torch.isfinite(v).all() for v in saved[-1]["model"].values())


def test_an_answer_that_is_no_number_is_no_accuracy(make_run):
    """It once stood in the matrix as the share of class 0, or ended the run in a traceback of JSON's."""

    class Broken(Strategy):
        @contextmanager
        def serving(self, model, task):
            hook = model.register_forward_hook(lambda m, inputs, out: torch.full_like(out, torch.nan))
            try:
                yield
            finally:
                hook.remove()

    with pytest.raises(Diverged, match=r"loss on the data of task 0 .* is nan, evaluated after 0 tasks"):
        run_stream(make_run(Broken(), epochs=1))


def test_an_infinite_loss_is_none(make_run):
    run = make_run()
    found = evaluation.run_columns(run, None)
    said = [evaluation.Said(torch.ones(len(c.source), dtype=torch.bool), torch.tensor(torch.inf), None) for c in found]
    evaluation.record(run, found, said)
    assert run.progress.loss[-1] == [None] * 5
    assert run.progress.accuracy[-1][0] > 0


def test_probes_and_references_change_nothing(make_run):
    """With dropout and a frozen prefix, a run with reference steps equals one without."""
    runs = []
    for steps in (0, 4):
        dropout = partial(mlp, hidden=[32, 32], dropout=0.3)
        runs.append(make_run(selector=LastK(k=1, warmup_tasks=1), model=dropout, reference_steps=steps))
        run_stream(runs[-1])
    assert runs[0].progress.accuracy == runs[1].progress.accuracy
    assert runs[1].progress.reference_seconds > 0
    assert runs[0].progress.full_flops(runs[0].progress.seen) == runs[1].progress.full_flops(runs[1].progress.seen)
    for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_partial_costs_less_than_full(make_run):
    run = make_run(selector=HeadOnly())
    run_stream(run)
    train = sum(r.flops for r in run.meter.rows if r.phase == "train")
    assert train / run.progress.full_flops(run.progress.seen) == pytest.approx(0.43, abs=0.05)
    full = make_run()
    run_stream(full)
    assert sum(r.flops for r in full.meter.rows if r.phase == "train") == full.progress.full_flops(full.progress.seen)


@pytest.mark.parametrize("kept", ["reset", "keep"])
def test_optimizer_state_between_tasks(make_run, kept):
    run = make_run(
        optimizer=partial(torch.optim.Adam, lr=1e-3),
        optimizer_state=kept,
        epochs=1,
        selector=LastK(k=0, warmup_tasks=1),
    )
    run_stream(run)
    steps = {n: s["step"].item() for n, s in run.progress.optimizer_memory.items()}
    if kept == "reset":
        assert steps == {}
    else:
        assert steps["head.weight"] == 5 * steps["backbone.layer1.0.weight"]


def test_validation_is_evaluated_where_asked_for(make_run):
    stream = from_arrays("digits", scenario="task", validation=0.3)
    run = make_run(stream=stream, evaluate_on="validation")
    run_stream(run)
    assert run.meter.rows[0].samples == sum(len(t.validation) for t in stream.tasks)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"batch_size": -1},
        {"optimizer_state": "kep"},
        {"evaluate_on": "tst"},
        {"checkpoint_every_s": -1.0},
    ],
)
def test_bad_settings(bad):
    with pytest.raises(ValueError, match=r"trainer\."):
        TrainerConfig(**bad).check()
