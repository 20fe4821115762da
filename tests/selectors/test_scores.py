"""Scores against closed forms and loops over single examples."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from frostline.core.rng import generator
from frostline.core.structure import everything, head, layers
from frostline.core.types import masked
from frostline.costs import TaskCosts
from frostline.loop.training import run_stream
from frostline.models import mlp, slim_resnet18
from frostline.selectors import RelativeGradientNorm, SignalToNoise, Spectrum, TopGradient
from frostline.selectors.scores import rgn, snr, snr_of_the_code, spectrum
from frostline.selectors.spectrum import kind

costs = TaskCosts(trace=None, epochs=96, samples=100)


@pytest.fixture
def net(digits):
    torch.manual_seed(0)
    return mlp(digits.shape, digits.classes, hidden=[16, 12])


def gradients_of_single_examples(net, task, batch):
    rows = []
    for i in range(len(batch)):
        net.zero_grad()
        F.cross_entropy(masked(net(batch.x[i : i + 1]), task.mask(batch)[i : i + 1]), batch.y[i : i + 1]).backward()
        rows.append({n: p.grad.clone() for n, p in net.named_parameters()})
    net.zero_grad()
    return {n: torch.stack([row[n] for row in rows]) for n in rows[0]}


def probe_of(task, count, *keys):
    order = torch.randperm(len(task.train), generator=generator(*keys))[:count]
    return next(iter(task.train.batches(count, order)))


def test_snr_is_the_squared_mean_over_the_variance_of_single_examples(net, digits):
    task = digits[1]
    scores = snr(net, task, costs, 40, generator("x"))
    grads = gradients_of_single_examples(net, task, probe_of(task, 40, "x"))
    ratio = {n: g.mean(0) ** 2 / g.var(0, correction=0).clamp(min=1e-12) for n, g in grads.items()}
    expected = {name: float(torch.cat([ratio[n].flatten() for n in own]).mean()) for name, own in layers(net).items()}
    top = max(expected.values())
    assert scores == pytest.approx({name: value / top for name, value in expected.items()}, rel=1e-2)


def test_snr_of_the_code_takes_the_variance_over_rows(net, digits):
    task = digits[1]
    scores = snr_of_the_code(net, task, costs, 40, generator("x"), batches=1)
    batch = probe_of(task, 40, "x")
    F.cross_entropy(task.logits(net, batch), batch.y).backward()
    for name, own in layers(net).items():
        values = []
        for n in own:
            g = net.get_parameter(n).grad.numpy()
            values.append((g * g / (np.var(g, axis=0, ddof=1, keepdims=True) + 1e-8)).ravel())
        assert scores[name] == pytest.approx(np.concatenate(values).mean(), rel=1e-3)
    assert scores != pytest.approx(snr(net, task, costs, 40, generator("x")), rel=0.1)


def test_rgn_is_the_norm_of_the_gradient_over_that_of_the_weights(net, digits):
    task = digits[1]
    scores = rgn(net, task, costs, 40, generator("x"), batches=1)
    batch = probe_of(task, 40, "x")
    F.cross_entropy(task.logits(net, batch), batch.y).backward()
    for name, own in layers(net).items():
        g = torch.cat([net.get_parameter(n).grad.flatten() for n in own])
        w = torch.cat([net.get_parameter(n).detach().flatten() for n in own])
        assert scores[name] == pytest.approx(float(g.norm() / w.norm()), rel=1e-5)


def test_batch_norm_is_left_out(digits):
    net = slim_resnet18(digits.shape, digits.classes, filters=2)
    for score in (rgn, snr_of_the_code):
        assert not any("bn" in name for name in score(net, digits[0], costs, 10, generator("x")))


def test_spectrum_by_hand():
    net = mlp((30,), 25, hidden=[60, 40])
    for name, score in spectrum(net).items():
        w = net.get_parameter(f"{name}.weight").detach().double().numpy()
        values = np.linalg.svd(w, compute_uv=False)
        eps = stats.iqr(values) / 1.349 * (1 + np.sqrt(min(w.shape) / max(w.shape)))
        signal, noise = values[values > eps].sum(), values[values <= eps].sum()
        assert score == (pytest.approx(signal / noise / values.max(), rel=1e-4) if noise else float("inf"))


def test_spectrum_takes_the_best_of_each_kind(digits):
    torch.manual_seed(0)
    net = slim_resnet18(digits.shape, digits.classes, filters=8)
    chosen, scores = Spectrum(fraction=0.1)(net, digits[0], costs), spectrum(net)
    assert head(net) <= chosen
    for end in ("conv1", "conv2"):
        taken = [n.removesuffix(".weight") for n in chosen if n.endswith(f"{end}.weight")]
        assert len(taken) == 1  # a tenth of eight, rounded up
        assert scores[taken[0]] == max(v for n, v in scores.items() if n.endswith(end))
    assert Spectrum(fraction=1.0)(net, digits[0], costs) >= {n for n in everything(net) if "conv" in n}


def test_kinds_are_what_blocks_have_in_common():
    assert kind("backbone.block7.conv1") == kind("backbone.block8.conv1") != kind("backbone.block8.conv2")
    assert kind("backbone.block1.layer.attention.self.query") == "backbone.block.layer.attention.self.query"
    assert kind("backbone.layer1.0") == kind("backbone.layer2.0") == "backbone.layer"


def test_auto_rgn_scales_the_learning_rates(make_run, digits):
    rule = RelativeGradientNorm(as_learning_rate=True)
    run = make_run(selector=rule, epochs=1)
    before = copy.deepcopy(run.model)
    scores = rgn(run.model, digits[0], TaskCosts(None, 1, len(digits[0].train)), 64, generator(0, "rgn", 0))
    names = rule(run.model, digits[0], TaskCosts(None, 1, len(digits[0].train)))
    change = rule.during(run.model, digits[0], names, 0, 10)
    assert max(change.rates.values()) == 1.0
    assert change.rates["head.weight"] == pytest.approx(scores["head"] / max(scores.values()))
    run_stream(run)
    moved = {
        n: float((p - q).detach().norm())
        for (n, p), q in zip(run.model.named_parameters(), before.parameters(), strict=True)
    }
    assert all(value > 0 for value in moved.values())


def test_thresholds_and_labels(net, digits):
    task = digits[1]
    assert SignalToNoise(threshold=1.0)(net, task, costs) == head(net)
    assert SignalToNoise(threshold=0.0)(net, task, costs) == everything(net)
    assert head(net) <= SignalToNoise(code_compat=True, threshold=0.95)(net, task, costs)
    assert head(net) <= TopGradient(labels="exact", fraction=0.9)(net, task, costs)
    with pytest.raises(ValueError, match=r"selector\.labels"):
        TopGradient(labels="true")


@pytest.mark.parametrize("rule", [TopGradient(fraction=0.9), RelativeGradientNorm(fraction=0.9), SignalToNoise()])
def test_selection_costs_at_most_a_twentieth_of_a_full_task(rule, make_run, digits):
    run = make_run(selector=rule, epochs=5)
    run_stream(run)
    for task in range(5):
        spent = [sum(r.flops for r in run.meter.rows if (r.task, r.phase) == (task, p)) for p in ("select", "train")]
        assert 0 < spent[0] <= 0.05 * spent[1]
