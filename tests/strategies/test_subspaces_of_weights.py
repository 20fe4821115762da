"""Methods that keep to a part of the weights' own space: OSF, O-LoRA."""

import itertools
from functools import partial

import pytest
import torch

from frostline.core.checks import UsageError
from frostline.core.scope import evaluating
from frostline.loop.training import run_stream
from frostline.models import mlp, slim_resnet18
from frostline.selectors import LoRA
from frostline.strategies import OSF, OLoRA

momentum = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)
adam = partial(torch.optim.Adam, lr=1e-3)


@pytest.mark.parametrize("optimizer", [momentum, adam])
@pytest.mark.parametrize("build", [mlp, partial(slim_resnet18, filters=4)])
def test_osf_holds_the_strongest_directions_whatever_the_optimizer(build, optimizer, make_run):
    strategy = OSF(share=0.4)
    run = make_run(strategy, model=build, optimizer=optimizer, epochs=1)
    seen = []
    after = strategy.after_task

    def note(scope, task):
        for name, origin in strategy.origin.items():
            before, now = origin.flatten(1), run.model.get_parameter(name).detach().flatten(1)
            u, v = strategy.left[name], strategy.right[name]
            s = torch.linalg.svdvals(before)[: len(v)]
            assert u.shape[1] == len(v) == round(0.4 * min(before.shape))
            torch.testing.assert_close(before @ v.T, u * s, atol=1e-4, rtol=1e-4)  # they are the strongest
            torch.testing.assert_close(now @ v.T, u * s, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(u.T @ now, s[:, None] * v, atol=1e-4, rtol=1e-4)
            assert (now - before).abs().max() > 1e-4 or task.index == 0
            seen.append(name)
        after(scope, task)

    strategy.after_task = note
    run_stream(run)
    layers = {"backbone.layer1.0.weight", "backbone.layer2.0.weight"} if build is mlp else set(seen)
    assert set(seen) == layers
    assert layers
    assert len(seen) == 4 * len(layers)  # the first task is free
    assert strategy.stored_bytes() == 0


def test_osf_reaches_what_pefts_own_reaches():
    """One step of SGD on W is what one on U, S and V makes of it where W's weak part has equal singular values."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(6, 5, bias=False))
    u, _, v = torch.linalg.svd(torch.randn(5, 6), full_matrices=False)
    layer[0].weight.data = (u * torch.tensor([5.0, 4.0, 0.01, 0.01, 0.01])) @ v
    before = layer[0].weight.detach().clone()
    theirs = peft.get_peft_model(layer, peft.OSFConfig(target_modules=["0"], effective_rank=2))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    theirs(torch.randn(16, 6)).square().sum().backward()
    optimizer.step()
    merged = theirs.merge_and_unload()[0].weight.detach()
    change = merged - before
    torch.testing.assert_close(u[:, :2].T @ change, torch.zeros(2, 6), atol=1e-4, rtol=0)
    torch.testing.assert_close(change @ v[:2].T, torch.zeros(5, 2), atol=1e-4, rtol=0)
    assert change.abs().max() > 1e-3  # the space in which ours moves too


def adapted(shape, classes):
    net = mlp(shape, classes, hidden=[16])
    LoRA(rank=2).prepare(net)
    return net


@pytest.mark.parametrize("measure", ["squared", "absolute"])
def test_o_lora_adapters_are_at_right_angles_and_end_in_the_weights(measure, make_run):
    def overlap(strategy):
        run = make_run(strategy, LoRA(rank=2, warmup_tasks=0), model=adapted, optimizer=adam, epochs=5)
        said, after = [], strategy.after_task
        (batch,) = run.stream[0].test.batches(1000)

        def note(scope, task):
            with torch.no_grad(), evaluating(scope.model):
                before = scope.model(batch.x)
                after(scope, task)
                torch.testing.assert_close(scope.model(batch.x), before, atol=1e-4, rtol=1e-4)
            said.append({name: rows.clone() for name, rows in strategy.rows.items()})

        strategy.after_task = note
        run_stream(run)
        assert [len(rows["backbone.layer1.0"]) for rows in said] == [2, 4, 6, 8, 10]
        for earlier, later in itertools.pairwise(said):
            for name, rows in earlier.items():
                assert torch.equal(later[name][: len(rows)], rows)
        rows = said[-1]["backbone.layer1.0"]
        own, other = rows[:2], rows[2:]
        return float((own @ other.T).square().sum() / (own.square().sum() * other.square().sum()))

    assert overlap(OLoRA(strength=50, measure=measure)) < 0.5 * overlap(OLoRA(strength=0, measure=measure))


def test_o_lora_penalty_by_hand():
    net = adapted((4,), 2)
    name = "backbone.layer1.0"
    down = net.get_parameter(f"{name}.lora_A.default.weight")

    class At:
        scope = type("S", (), {"parameters": {f"{name}.lora_A.default.weight": down}})

    old = torch.randn(4, 4)
    for measure, power in (("squared", 2), ("absolute", 1)):
        strategy = OLoRA(strength=3, measure=measure)
        strategy.rows = {name: old}
        expected = 3 * sum(abs(float(a @ b.detach())) ** power for a in old for b in down)
        assert strategy.penalty(At(), None, torch.zeros(1)).item() == pytest.approx(expected, rel=1e-5)  # type: ignore[arg-type]


def test_o_lora_without_adapters_is_refused(make_run):
    run = make_run(OLoRA())
    with pytest.raises(UsageError, match="selector=lora"):
        run.strategy.check(run.model, run.stream)
