"""Gradients that are projected: GEM, A-GEM, GPM, OWM, OGD against generic solvers and what they promise."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional as F

from frostline.core.examples import example_gradients
from frostline.core.importance import probe
from frostline.core.projection import away_from, into_cone, layer_inputs, orthonormal
from frostline.core.rng import generator
from frostline.loop.training import run_stream
from frostline.models import cnn, mlp
from frostline.strategies import ACIL, AGEM, GEM, GPM, OGD, OWM, FeCAM, RanPAC
from frostline.strategies.gpm import grown
from frostline.strategies.ogd import right_logit
from frostline.streams import from_arrays


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.0, 0.5]))
def test_the_cone_is_that_of_a_generic_solver(seed, count, margin):
    rng = torch.Generator().manual_seed(seed)
    g, old = torch.randn(20, generator=rng).double(), torch.randn(count, 20, generator=rng).double()
    found = into_cone(g, old, margin)
    if (old @ g >= 0).all():
        assert torch.equal(found, g)
        return
    gram, linear = (old @ old.T).numpy() + 1e-3 * np.eye(count), (old @ g).numpy()
    solved = minimize(
        lambda v: 0.5 * v @ gram @ v + linear @ v, np.full(count, margin + 1.0), jac=lambda v: gram @ v + linear,
        bounds=[(margin, None)] * count, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-12},
    )  # fmt: skip
    torch.testing.assert_close(found, g + torch.from_numpy(solved.x) @ old, atol=1e-4, rtol=1e-4)
    assert (old @ found > -2e-2 * old.norm()).all()


def test_one_constraint_is_the_closed_form_of_the_same():
    g, old = torch.tensor([1.0, -2.0]), torch.tensor([0.0, 3.0])
    assert away_from(g, old).tolist() == [1.0, 0.0]
    assert away_from(-g, old).tolist() == [-1.0, 2.0]  # does not point against it
    torch.testing.assert_close(away_from(g, old), into_cone(g, old[None], ridge=0.0))
    assert away_from(g, old * 0).tolist() == g.tolist()


@pytest.mark.parametrize("build", [GEM, AGEM])
def test_a_step_does_not_point_against_memory(build, make_run):
    """The gradient that was stepped with, against that of the samples that were looked at."""
    strategy, products = build(), []
    project = strategy.project

    def watch(step, batch, grads):
        drawn = []
        if build is AGEM:
            draw = strategy.memory.draw
            strategy.memory.draw = lambda size: drawn.append(draw(size)) or drawn[-1]
        found = project(step, batch, grads)
        if build is AGEM:
            del strategy.memory.draw
        for old in drawn or [b for b in strategy.remembered() if build is GEM]:
            loss = step.loss(step.forward(old), old.y)
            own = torch.autograd.grad(loss, [step.scope.parameters[n] for n in grads])
            products.append(float(sum((a * found[n]).sum() for a, n in zip(own, grads, strict=True))))
        return found

    strategy.project = watch
    run_stream(make_run(strategy, stream=from_arrays("digits", scenario="domain", samples_per_class=20), epochs=1))
    assert products
    assert min(products) > -2e-3


def test_what_is_at_right_angles_to_all_old_inputs_leaves_their_answers_alone(make_run):
    """Saha et al. 2021: at a threshold of 1 the answers on the samples remembered stay, to rounding."""
    strategy = GPM(threshold=1.0, samples=5)
    stream = from_arrays("digits", scenario="task", samples_per_class=50)
    run = make_run(
        strategy,
        stream=stream,
        model=partial(mlp, hidden=[64, 64]),
        optimizer=partial(torch.optim.SGD, lr=0.05),
        epochs=10,
    )
    kept = {}
    after = strategy.after_task

    def note(scope, task):
        after(scope, task)
        (batch,) = probe(task, 5, generator(0, "gpm", task.index), 5)
        with torch.no_grad():
            kept[task.index] = (batch, run.model(batch.x)[:, task.mask(batch)[0]])

    strategy.after_task = note
    run_stream(run)
    with torch.no_grad():
        for index, (batch, answers) in kept.items():
            now = run.model(batch.x)[:, stream[index].mask(batch)[0]]
            torch.testing.assert_close(now, answers, atol=1e-4, rtol=1e-4)
    assert run.progress.accuracy[-1][-1] > 0.8  # and yet it learned


def test_directions_kept_are_as_few_as_make_up_the_threshold():
    rng = torch.Generator().manual_seed(0)
    first, second = (torch.randn(60, 9, generator=rng) * torch.logspace(0, -2, 9) for _ in range(2))
    basis = grown(torch.zeros(9, 0), first, 0.9)
    s = torch.linalg.svdvals(first).square()
    assert basis.shape[1] == int((s.cumsum(0) < 0.9 * s.sum()).sum()) + 1
    more = grown(basis, second, 0.999)
    torch.testing.assert_close(more.T @ more, torch.eye(more.shape[1]), atol=1e-5, rtol=0)
    covered = ((second @ more) ** 2).sum() / (second**2).sum()
    fewer = ((second @ more[:, :-1]) ** 2).sum() / (second**2).sum()
    assert covered >= 0.999 > fewer
    assert grown(more, second, 0.999).shape == more.shape


def test_the_projector_is_what_the_papers_recursion_arrives_at(make_run):
    strategy = OWM(alpha=2.0, inputs="sample")
    run = make_run(strategy, epochs=1)
    seen = []
    after = strategy.after_task

    def note(scope, task):
        after(scope, task)
        seen.append(
            (task, [f["backbone.layer1.0"].clone() for f in layer_inputs(scope.model, task.train.batches(128))])
        )

    strategy.after_task = note
    run_stream(run)
    P = torch.eye(65, dtype=torch.double)
    for _, inputs in seen:
        for x in torch.cat(inputs).double():
            k = P @ x
            P = P - torch.outer(k, k) / (2.0 + x @ k)
    torch.testing.assert_close(strategy.projections["backbone.layer1.0"].double(), P, atol=1e-4, rtol=1e-3)


def test_a_convolution_is_a_product_with_the_patches_it_saw(digits):
    model = cnn(digits.shape, digits.classes).eval()
    (batch,) = list(digits[0].train.batches(4, torch.arange(4)))
    outputs = {}
    handles = [
        m.register_forward_hook(lambda m, i, out, n=n: outputs.update({n: out}))
        for n, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    (inputs,) = layer_inputs(model, [batch])
    for handle in handles:
        handle.remove()
    assert any(isinstance(model.get_submodule(n), nn.Conv2d) for n in inputs)
    for name, x in inputs.items():
        layer = model.get_submodule(name)
        wide = layer.weight.flatten(1)
        wide = wide if layer.bias is None else torch.cat([wide, layer.bias[:, None]], 1)
        out = outputs[name].flatten(2).transpose(1, 2).flatten(0, 1) if outputs[name].ndim > 2 else outputs[name]
        torch.testing.assert_close(x @ wide.T, out, atol=1e-4, rtol=1e-4)


def test_steps_are_at_right_angles_to_old_samples_gradients(make_run):
    strategy, products = OGD(samples=6), []
    project = strategy.project

    def watch(step, batch, grads):
        found = project(step, batch, grads)
        for kept in zip(*(strategy.directions[n].flatten(1) for n in found if strategy.directions), strict=True):
            vector = torch.cat([found[n].flatten() for n in found])
            products.append(float(F.cosine_similarity(torch.cat(kept), vector, 0)))
        return found

    strategy.project = watch
    run_stream(make_run(strategy, epochs=1, model=partial(mlp, hidden=[10])))
    assert products
    assert max(map(abs, products)) < 1e-3


def test_directions_are_each_samples_own_gradient_of_its_classes_logit(digits):
    model = mlp(digits.shape, digits.classes, hidden=[6])
    batch = next(iter(digits[2].train.batches(3)))
    found = example_gradients(model, right_logit, batch.x, batch.y)
    for i in range(3):
        model.zero_grad()
        model(batch.x[i : i + 1])[0, batch.y[i]].backward()
        for n, p in model.named_parameters():
            torch.testing.assert_close(found[n][i], p.grad)
    assert (orthonormal(torch.ones(3, 4)).abs().sum(1) > 0).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: OGD(samples=50), r"strategy\.ogd\.samples=50"),
        (lambda: RanPAC(projection=2000), r"strategy\.ranpac\.projection=2000"),
        (lambda: ACIL(projection=2000), r"strategy\.acil\.projection=2000"),
        (FeCAM, r"strategy\.fecam\.covariance=class"),
        (GPM, "GPM: a square"),
        (OWM, "OWM: a square"),
    ],
)
def test_what_would_not_fit_is_refused_before_any_training(build, named, digits, monkeypatch):
    model = mlp(digits.shape, digits.classes, hidden=[50])
    build().check(model, digits)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 10_000}))
    with pytest.raises(ValueError, match=named + r".* would take .* free\. Expected "):
        build().check(model, digits)
