"""Methods with exemplars, and heads that are put right: iCaRL, LUCIR, IL2M, BiC, SCR, ER-AML, CWR*, SLCA."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn import functional as F

from frostline.core import metrics
from frostline.core.checks import UsageError
from frostline.core.heads import Rectified, described, linear, rebuilt
from frostline.core.scope import evaluating
from frostline.loop.training import run_stream
from frostline.models import mlp
from frostline.selectors import HeadOnly
from frostline.strategies import (
    ERAML,
    IL2M,
    LUCIR,
    SCR,
    SLCA,
    BiC,
    Chain,
    CWRStar,
    Finetune,
    ICaRL,
    LwF,
    Replay,
)  # fmt: skip
from frostline.strategies.bic import correction
from frostline.streams import from_arrays


@pytest.fixture(scope="module")
def by_class():
    return from_arrays("digits", scenario="class", samples_per_class=60)


def average(run):
    return metrics.all_metrics(metrics.matrix(run.progress.accuracy))["average_accuracy"]


def unit_features(model, x):
    """The features of a perceptron, layer by layer, of length 1."""
    with torch.no_grad(), evaluating(model):
        for stage in model.stages():
            x = stage(x)
    return F.normalize(x)


def test_icarl_decides_by_the_nearest_mean_of_its_exemplars(make_run, by_class):
    strategy = ICaRL(capacity=100)
    run = make_run(strategy, stream=by_class, epochs=5)
    run_stream(run)
    assert average(run) > 0.7  # fine-tuning: 0.2
    held = strategy.memory.all()
    assert sorted(held.y.bincount(minlength=10).tolist()) == [10] * 10
    z = unit_features(run.model, held.x)
    means = F.normalize(torch.stack([z[held.y == label].mean(0) for label in range(10)]))
    right = 0
    for task in by_class.tasks:
        for batch in task.test.batches(500):
            found = torch.cdist(unit_features(run.model, batch.x), means).argmin(1)
            right += int((found == batch.y).sum())
    total = sum(len(task.test) for task in by_class.tasks)
    accuracy = sum(a * len(task.test) for a, task in zip(run.progress.accuracy[-1], by_class.tasks, strict=True))
    assert accuracy == pytest.approx(right, abs=0.01 * total)


def test_icarl_teaches_old_classes_what_the_old_net_said(make_run, by_class):
    strategy = ICaRL(capacity=100)
    run = make_run(strategy, stream=by_class, epochs=1)
    seen = []
    criterion = strategy.criterion

    def watch(step, batch, logits):
        loss = criterion(step, batch, logits)
        if step.task.index == 1:
            with torch.no_grad():
                old = step.forward(
                    batch, {**dict(step.scope.model.named_parameters()), **strategy.teacher}, masked=False
                )
            target = F.one_hot(batch.y, 10).float()
            target[:, :2] = old[:, :2].sigmoid()
            p = step.raw.detach().sigmoid()
            each = -(target * p.log() + (1 - target) * (1 - p).log())[:, :4]
            seen.append((float(loss.detach()), float(each.sum(1).mean())))
        return loss

    strategy.criterion = watch
    run_stream(run)
    assert seen
    assert all(a == pytest.approx(b, rel=1e-4) for a, b in seen)


def test_lucir_is_the_sum_of_its_three_terms(make_run, by_class):
    strategy = LUCIR(capacity=100, scale=10.0, margin=0.4, hardest=2)
    run = make_run(strategy, stream=by_class, epochs=1)
    seen = []
    criterion = strategy.criterion

    def watch(step, batch, logits):
        loss = criterion(step, batch, logits)
        if step.task.index == 2:
            model = step.scope.model
            z = unit_features(model, batch.x)
            rows = F.normalize(model.get_parameter("head.weight").detach())
            cosines = z @ rows.T
            expected = F.cross_entropy(10 * cosines[:, :6], batch.y)
            now = {name: p.data for name, p in model.named_parameters()}
            for name, value in strategy.teacher.items():
                model.get_parameter(name).data = value
            old = unit_features(model, batch.x)
            for name, value in now.items():
                model.get_parameter(name).data = value
            expected += 5 * math.sqrt(4 / 2) * (1 - (z * old).sum(1)).mean()
            gaps = []
            for i in range(len(batch)):
                if batch.y[i] < 4:
                    gaps += [max(0.0, 0.4 - float(cosines[i, batch.y[i]]) + float(cosines[i, j])) for j in (4, 5)]
            seen.append((float(loss.detach()), float(expected) + (np.mean(gaps) if gaps else 0.0)))
        return loss

    strategy.criterion = watch
    run_stream(run)
    assert seen
    assert all(a == pytest.approx(b, rel=1e-4) for a, b in seen)


def test_lucir_keeps_what_fine_tuning_forgets(make_run, by_class):
    run = make_run(LUCIR(capacity=100), stream=by_class, epochs=5)
    run_stream(run)
    assert average(run) > 0.8


def test_bic_finds_the_two_numbers_that_another_minimiser_finds():
    rng = torch.Generator().manual_seed(1)
    y = torch.randint(0, 6, (200,), generator=rng)
    logits = torch.randn(200, 6, generator=rng).double() + 3 * F.one_hot(y, 6)
    logits[:, 4:] += 2.0  # the newest speak too loud

    def loss(numbers):
        changed = logits.clone()
        changed[:, 4:] = numbers[0] * changed[:, 4:] + numbers[1]
        return float(F.cross_entropy(changed, y))

    other = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10})
    assert correction(logits, y, [4, 5]) == pytest.approx(tuple(other.x), abs=1e-3)
    assert other.x[1] < -1.0


def test_bic_learns_nothing_of_what_it_holds_out(make_run, by_class):
    strategy = BiC(capacity=40, held_out=0.2)
    run = make_run(Chain([Replay(capacity=60), LwF(), strategy]), stream=by_class, epochs=3)
    seen = set()
    batches = strategy.parts

    def note(task):
        (part,) = batches(task)
        for batch in part.train.batches(1000):
            seen.update(batch.index.tolist())
        assert len(part.train) == 96  # 60 of each of two classes, a fifth of each held out
        return [part]

    strategy.parts = note
    run_stream(run)
    held = strategy.memory.all()
    assert not seen & set(held.index.tolist())
    assert held.y.bincount(minlength=10).tolist() == [4] * 10
    with torch.no_grad(), evaluating(run.model):
        raw = run.model(held.x)
        with strategy.serving(run.model, None):
            served = run.model(held.x)
    expected = raw.clone()
    expected[:, 8:] = strategy.scale * raw[:, 8:] + strategy.shift
    torch.testing.assert_close(served, expected)
    assert F.cross_entropy(served, held.y) < F.cross_entropy(raw, held.y)


def test_il2m_raises_old_classes_where_a_new_one_wins():
    layer = linear(torch.eye(4), torch.zeros(4))
    new, known = torch.tensor([0, 0, 1, 0]).bool(), torch.tensor([1, 1, 1, 0]).bool()
    ratio = torch.tensor([3.0, 0.5, 1.0, 1.0])
    head = Rectified(layer, ratio.log(), new, known)
    z = torch.tensor([[1.0, 0.0, 1.5, 9.0], [2.0, 0.0, 1.0, 0.0]])
    found = head(z).detach()
    for row, logits in enumerate(z):
        p = logits[:3].softmax(0)
        if int(p.argmax()) == 2:
            p = p * torch.tensor([3.0, 0.5, 1.0])
        torch.testing.assert_close(found[row, :3], p.log())
    assert found[0].tolist().index(float(found[0, :3].max())) == 0  # three times as likely as its score said
    again = rebuilt(described(head))
    again.load_state_dict(head.state_dict())
    torch.testing.assert_close(again(z).detach(), found)


def test_il2m_notes_what_the_classes_scores_were(make_run, by_class):
    strategy = IL2M(capacity=100)
    run = make_run(strategy, stream=by_class, epochs=5)
    run_stream(run)
    assert average(run) > 0.7
    (batch,) = by_class[4].train.batches(1000)
    with torch.no_grad(), evaluating(run.model):
        p = run.model(batch.x).softmax(1)
        kept = strategy.memory.all()
        old = run.model(kept.x).softmax(1)
    assert float(strategy.then[8]) == pytest.approx(float(p[batch.y == 8, 8].mean()), rel=1e-4)
    assert float(strategy.confidence[9]) == pytest.approx(float(p.amax(1).mean()), rel=1e-4)
    assert float(strategy.now[3]) == pytest.approx(float(old[kept.y == 3, 3].mean()), rel=1e-4)


def test_a_chain_without_memory_teaches_er_aml_by_cross_entropy_and_one_with_it_keeps_more(make_run, by_class):
    plain, alone = make_run(Finetune(), stream=by_class), make_run(ERAML(), stream=by_class)
    run_stream(plain)
    run_stream(alone)
    assert plain.progress.accuracy == alone.progress.accuracy
    run = make_run(Chain([Replay(capacity=200, update="step"), ERAML()]), stream=by_class, epochs=10)
    run_stream(run)
    assert average(run) > 0.65


@pytest.mark.parametrize("views", [1, 2])
def test_scr_learns_to_tell_all_classes_apart(views, make_run, by_class):
    strategy = SCR(capacity=200, views=views)
    run = make_run(strategy, stream=by_class, epochs=3)
    run_stream(run)
    assert average(run) > 0.8
    samples = [row.samples for row in run.meter.rows if row.phase == "train"]
    assert samples[0] >= views * len(by_class[0].train) * 3


def test_a_class_that_fell_out_of_memory_is_never_the_nearest(make_run, by_class):
    strategy = SCR(capacity=200)
    run = make_run(strategy, stream=by_class, epochs=1)
    run_stream(run)
    strategy.means = strategy.means.clone()
    strategy.means[3] = 0.0
    (batch,) = by_class[1].test.batches(1000)
    with torch.no_grad(), evaluating(run.model), strategy.serving(run.model, None):
        assert not bool((run.model(batch.x).argmax(1) == 3).any())


def test_cwr_joins_rows_as_the_paper_does(make_run):
    stream = from_arrays("digits", scenario="domain", tasks=2, samples_per_class=30)
    strategy = CWRStar()
    run = make_run(strategy, HeadOnly(warmup_tasks=0), stream=stream, epochs=1)
    trained = []
    after = strategy.after_task

    def note(scope, task):
        head = scope.model.head
        trained.append(torch.cat((head.weight, head.bias[:, None]), 1).detach().clone())
        after(scope, task)

    strategy.after_task = note
    run_stream(run)
    counts = [torch.bincount(task.train.labels, minlength=stream.classes).float() for task in stream.tasks]
    first = trained[0] - trained[0].mean(0)
    w = (counts[0] / counts[1]).sqrt()[:, None]
    expected = (first * w + trained[1] - trained[1].mean(0)) / (w + 1)
    torch.testing.assert_close(run.model.head.weight, expected[:, :-1])
    torch.testing.assert_close(run.model.head.bias, expected[:, -1])


def test_slca_moves_the_body_slowly_and_draws_features_of_all_classes(make_run, by_class):
    strategy = SLCA(slow=0.01)
    slow = make_run(strategy, stream=by_class, epochs=1, optimizer=partial(torch.optim.SGD, lr=0.05))
    rates = []
    project = slow.strategy.thawing

    def note(scope, task):
        project(scope, task)
        rates.append(strategy.rates(0, 1))

    slow.strategy.thawing = note
    run_stream(slow)
    assert all(rate == (1.0 if name.startswith("head") else 0.01) for own in rates for name, rate in own.items())
    drawn, y = strategy._drawn(torch.device("cpu"), 7)
    assert y.bincount().tolist() == [256] * 10
    (batch,) = by_class[4].train.batches(1000)
    with torch.no_grad(), evaluating(slow.model):
        z = batch.x
        for stage in slow.model.stages():
            z = stage(z)
    own = z[batch.y == 9].numpy()
    np.testing.assert_allclose(strategy.moments.means[9].numpy(), own.mean(0), rtol=1e-3, atol=1e-4)
    scatter = strategy.moments.scatters[9].numpy() / (len(own) - 1)
    np.testing.assert_allclose(scatter, np.cov(own.T), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(drawn[y == 9].numpy().mean(0), own.mean(0), atol=0.3 * own.std() + 1e-3)


@pytest.mark.parametrize("strategy", [ICaRL, LUCIR, IL2M, BiC, SCR, SLCA, CWRStar, ERAML])
def test_a_net_without_a_linear_head_is_refused_by_name(strategy, make_run, by_class):
    def headless(shape, classes):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), classes))

    with pytest.raises(UsageError, match="head"):
        strategy().check(headless(by_class.shape, 10), by_class)


def test_herding_needs_whole_tasks(by_class):
    with pytest.raises(UsageError, match=r"update=task"):
        Replay(buffer="herding", update="step")
    with pytest.raises(UsageError, match=r"nearest valid value is 10"):
        ICaRL(capacity=4).check(mlp(by_class.shape, 10), by_class)
