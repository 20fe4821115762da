"""Classifiers in closed form against those that see all data at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from torch import nn
from torch.nn import functional as F

from frostline.core.checks import UsageError
from frostline.core.moments import ClassMoments
from frostline.loop.training import run_stream
from frostline.models import mlp
from frostline.strategies import ACIL, NCM, FeCAM, Frozen, RanPAC


def data(n=300, width=12, classes=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=rng)
    means = torch.randn(classes, width, generator=rng) * 2
    return means[y] + torch.randn(n, width, generator=rng), y


def learned(strategy, z, y, classes=4, part=37):
    for rows in torch.arange(len(z)).split(part):
        strategy.learn(z[rows], y[rows], classes)
    strategy.solve()
    return strategy.classifier()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), st.booleans())
def test_moments_are_those_of_all_samples_at_once(seed, part, shared):
    z, y = data(90, 5, 3, seed)
    z = z.double() + 1000  # large means lose no digits
    moments = ClassMoments(shared)
    for rows in torch.arange(90).split(part):
        moments.add(z[rows], y[rows], 3)
    scatters = [np.cov(z[y == c].T.numpy(), bias=True) * int((y == c).sum()) for c in range(3)]
    for c in range(3):
        np.testing.assert_allclose(moments.means[c], z[y == c].mean(0), rtol=1e-12)
    expected = np.stack(scatters).sum(0, keepdims=True) if shared else np.stack(scatters)
    np.testing.assert_allclose(moments.scatters, expected, rtol=1e-7, atol=1e-7)


def test_the_nearest_mean_is_scikit_learns():
    z, y = data()
    head = learned(NCM(metric="euclidean"), z, y)
    fresh, _ = data(seed=1)
    expected = NearestCentroid().fit(z.numpy(), y.numpy()).predict(fresh.numpy())
    assert (head(fresh).argmax(1).numpy() == expected).all()


@pytest.mark.parametrize(("metric", "of_samples"), [("cosine", False), ("icarl", True)])
def test_the_nearest_mean_by_angle(metric, of_samples):
    z, y = data()
    head = learned(NCM(metric=metric), z, y)
    means = torch.stack([(F.normalize(z) if of_samples else z)[y == c].mean(0) for c in range(4)])
    expected = F.cosine_similarity(z[:, None], means, dim=2)
    torch.testing.assert_close(head(z) + 0.5, expected)


@pytest.mark.parametrize("projection", [0, 40])
@pytest.mark.parametrize("build", [lambda p: RanPAC(projection=p, ridge=3.0), lambda p: ACIL(projection=p, ridge=3.0)])
def test_ridge_regression_bit_by_bit_is_that_on_all_data_at_once(build, projection):
    z, y = data()
    strategy = build(projection)
    head = learned(strategy, z, y)
    h = z if not projection else F.relu(z @ strategy.matrix(z))
    expected = (
        Ridge(alpha=3.0, fit_intercept=False).fit(h.double().numpy(), np.eye(4)[y.numpy()]).predict(h.double().numpy())
    )
    np.testing.assert_allclose(head(z).detach().numpy(), expected, atol=2e-5)


def test_the_ridge_chosen_is_best_on_what_was_held_out():
    z, y = data(200, 30, 4)
    strategy = RanPAC(projection=0)
    head = learned(strategy, z, y)
    held = torch.arange(200) % 5 == 4
    hot = torch.eye(4, dtype=torch.double)[y]
    errors = {}
    for power in range(-8, 10):
        a = z[~held].double()
        W = torch.linalg.solve(a.T @ a + 10.0**power * torch.eye(30), a.T @ hot[~held])
        errors[10.0**power] = float((z[held].double() @ W - hot[held]).square().sum())
    assert strategy.chosen == min(errors, key=errors.get)
    whole = z.double()
    W = torch.linalg.solve(whole.T @ whole + strategy.chosen * torch.eye(30), whole.T @ hot)
    torch.testing.assert_close(head(z).double(), whole @ W, atol=1e-4, rtol=1e-4)


def test_too_little_ridge_for_features_that_are_alike_is_refused():
    z, y = data(50, 3)
    with pytest.raises(UsageError, match="ridge"):
        learned(RanPAC(projection=0, ridge=1e-30), torch.cat([z, z], 1), y)


@pytest.mark.parametrize("correlation", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_mahalanobis_distances_are_those_of_the_formula(correlation, normalise):
    z, y = data(400, 6)
    z = z.abs()
    head = learned(FeCAM(correlation=correlation, normalise=normalise), z, y)
    x = np.sqrt(z.double().numpy())

    def unit(v):
        return v / np.linalg.norm(v, axis=-1, keepdims=True) if normalise else v

    expected = np.empty((400, 4))
    for c in range(4):
        own = x[y.numpy() == c]
        S = np.cov(own.T)
        off = S[~np.eye(6, dtype=bool)].mean()
        S = S + np.diag(S).mean() * np.eye(6) + off * (1 - np.eye(6))
        if correlation:
            S = S / np.sqrt(np.outer(np.diag(S), np.diag(S)))
        d = unit(x) - unit(own.mean(0))
        expected[:, c] = -np.einsum("bi,ij,bj->b", d, np.linalg.inv(S), d)
    np.testing.assert_allclose(head(z).numpy(), expected, rtol=2e-3, atol=1e-4)


def test_shapes_of_their_own_tell_classes_apart_that_means_do_not():
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    z = torch.randn(400, 4, generator=rng) * torch.where(
        y[:, None] == 0, torch.tensor([3.0, 3, 0.1, 0.1]), torch.tensor([0.1, 0.1, 3, 3])
    )
    settings = {"tukey": 1.0, "shrink": 0.0, "correlation": False, "normalise": False}
    assert (learned(FeCAM(**settings), z, y, 2)(z).argmax(1) == y).float().mean() > 0.99
    assert (learned(FeCAM(**settings, covariance="shared"), z, y, 2)(z).argmax(1) == y).float().mean() < 0.7


def test_a_class_of_one_sample_is_no_ground_to_stop():
    z, y = data(20, 6, 3)
    y[0] = 3
    assert torch.isfinite(learned(FeCAM(), z, y)(z)).all()
    assert torch.isfinite(learned(FeCAM(shrink=0.0), z[:4], y[:4] * 0)(z)).all()


@pytest.mark.parametrize(
    "build", [NCM, FeCAM, lambda **k: RanPAC(projection=30, **k), lambda **k: ACIL(projection=30, **k), Frozen]
)
def test_after_the_first_task_no_weight_moves_and_what_was_learned_answers(build, make_run):
    run = make_run(build(warmup_tasks=1), model=mlp)
    run_stream(run)
    rows = [row for row in run.meter.rows if row.phase == "train" and row.task]
    assert sum(row.flops for row in rows) == 0
    if build is not Frozen:
        assert min(run.progress.accuracy[-1]) > 0.8  # of a net that saw two classes


def test_a_net_without_a_head_is_refused_by_name(digits):
    with pytest.raises(UsageError, match=r"strategy=ncm: Sequential has no linear layer"):
        NCM().check(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits)


def test_a_task_of_which_nothing_is_held_out_keeps_the_ridge_that_was_chosen():
    z, y = data(200)
    strategy = RanPAC(projection=0)
    learned(strategy, z, y)
    chosen = strategy.chosen
    learned(strategy, z[:3], y[:3])
    assert strategy.chosen == chosen
    few = RanPAC(projection=0)
    learned(few, z[:3], y[:3])
    assert few.chosen == 1.0


def test_many_features_on_a_cpu_are_said_to_take_long(digits, capsys):
    RanPAC().check(mlp(digits.shape, digits.classes), digits)
    assert "strategy.ranpac.projection=2000 takes seconds" in capsys.readouterr().out
    RanPAC(projection=2000).check(mlp(digits.shape, digits.classes), digits)
    assert not capsys.readouterr().out
