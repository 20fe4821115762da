"""Methods about what is remembered: GDumb, FDR, CLS-ER, WA."""

import pytest
import torch

from frostline.core.scope import Scope
from frostline.core.structure import everything
from frostline.core.types import batch_of
from frostline.loop.training import run_stream
from frostline.models import mlp
from frostline.strategies import AGEM, CLSER, FDR, WA, GDumb, Replay
from frostline.streams import from_arrays


def test_gdumb_learns_from_a_balanced_memory_and_from_nothing_else(make_run):
    strategy = GDumb(capacity=60)
    run = make_run(strategy, stream=from_arrays("digits", scenario="class", samples_per_class=50), epochs=150)
    learned = []
    parts = strategy.parts

    def note(task):
        (part,) = parts(task)
        (batch,) = part.train.batches(1000)
        learned.append(batch)
        return [part]

    strategy.parts = note
    run_stream(run)
    for index, batch in enumerate(learned):
        counts = batch.y.bincount(minlength=10)
        assert counts.sum() == 60
        assert set(counts[: 2 * index + 2].tolist()) <= {60 // (2 * index + 2), 60 // (2 * index + 2) + 1}
    assert sum(run.progress.accuracy[-1]) / 5 > 0.7  # class-incremental, six samples a class
    assert len(strategy.memory) == 60


def test_the_distance_of_functions_is_that_of_the_formula(make_run):
    strategy = FDR(strength=3.0, batch_size=7)
    run = make_run(strategy, stream=from_arrays("digits", scenario="domain", samples_per_class=20))
    checked = []
    penalty = strategy.penalty

    def watch(step, batch, logits):
        drawn = []
        draw = strategy.memory.draw
        strategy.memory.draw = lambda size: drawn.append(draw(size)) or drawn[-1]
        found = penalty(step, batch, logits)
        del strategy.memory.draw
        for old in drawn:
            with torch.no_grad():
                now = step.forward(old, masked=False).softmax(1)
            expected = 3.0 * (now - old.columns["said"]).norm(dim=1).mean()
            checked.append((float(found.detach()), float(expected)))
            assert len(old) == 7
        return found

    strategy.penalty = watch
    run_stream(run)
    assert checked
    assert all(a == pytest.approx(b, rel=1e-3, abs=1e-5) for a, b in checked)
    assert max(a for a, _ in checked) > 0.01


def test_the_surer_average_teaches(digits, make_run):
    strategy = CLSER(strength=2.0)
    run = make_run(strategy, stream=from_arrays("digits", scenario="class", samples_per_class=20))
    checked = []
    penalty = strategy.penalty

    def watch(step, batch, logits):
        found = penalty(step, batch, logits)
        if "cls_er" in batch.columns:
            rows = (batch.columns["cls_er"] == 1).nonzero().squeeze(1)
            again = batch_of({name: t[rows] for name, t in batch.tensors().items()})
            raws = [step.teacher(again, average) for average in (strategy.fast, strategy.slow)]
            total = 0.0
            for i, label in enumerate(again.y.tolist()):
                sure = [float(raw[i].softmax(0)[label]) for raw in raws]
                total += float((step.raw[rows[i]] - raws[sure.index(max(sure))][i]).square().sum().detach())
            checked.append((float(found.detach()), 2.0 * total / (len(rows) * raws[0].shape[1])))
        return found

    strategy.penalty = watch
    run_stream(run)
    assert checked
    assert all(a == pytest.approx(b, rel=1e-3, abs=1e-5) for a, b in checked)
    assert any(not torch.equal(strategy.fast[n], strategy.slow[n]) for n in strategy.fast)
    with strategy.serving(run.model, None):
        assert all(torch.equal(p, strategy.slow[n]) for n, p in run.model.named_parameters())


def test_new_rows_are_as_long_as_old_ones(make_run):
    stream = from_arrays("digits", scenario="class", samples_per_class=20)
    run, lengths = make_run(WA(), stream=stream), []
    after = run.strategy.after_task

    def note(scope, task):
        before = scope.model.head.weight.detach().clone()
        after(scope, task)
        now = scope.model.head.weight.detach()
        old, new = list(range(2 * task.index)), list(task.classes)
        assert torch.equal(before[old], now[old])
        if old:
            lengths.append((float(now[old].norm(dim=1).mean()), float(now[new].norm(dim=1).mean())))

    run.strategy.after_task = note
    run_stream(run)
    assert len(lengths) == 4
    assert all(a == pytest.approx(b, rel=1e-5) for a, b in lengths)


def test_a_head_that_stands_still_is_not_aligned(digits):
    model = mlp(digits.shape, digits.classes, hidden=[4])
    scope = Scope(model, everything(model) - {"head.weight", "head.bias"})
    strategy, before = WA(), model.head.weight.detach().clone()
    for task in digits.tasks[:2]:
        strategy.after_task(scope, task)
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize("build", [GDumb, lambda **k: Replay(buffer="ring", **k), lambda **k: AGEM(**k)])
def test_a_balanced_memory_has_a_place_for_each_class(build, digits):
    model = mlp(digits.shape, digits.classes)
    build(capacity=10).check(model, digits)
    with pytest.raises(ValueError, match=r"capacity=9: .*The nearest valid value is 10\."):
        build(capacity=9).check(model, digits)
    Replay(capacity=2).check(model, digits)  # a reservoir is a sample of what came, however small
