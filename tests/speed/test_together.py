"""Several seeds at once against the same seeds one after another."""

import copy
from functools import partial

import pytest
import torch

from frostline.loop.training import run_stream
from frostline.models import cnn, mlp, slim_resnet18, vit
from frostline.selectors import Everything, LastK
from frostline.speed import fast
from frostline.strategies import EWC, Finetune, Replay, Strategy
from frostline.streams import from_arrays
from frostline.streams.augmentation import Augmentation
from tests.contract.test_contract import (
    OF_TRANSFORMERS,
    SELECTORS,
    STRATEGIES,
    build_selector,
    build_strategy,
    model_for,
    momentum,
)

SEEDS = (0, 1, 2)


def both(make, *, tolerance=2e-4, seeds=SEEDS):
    """Learn with one run a seed, then all at once; hold weights, accuracies and bills against each other."""
    apart, together = [make(seed) for seed in seeds], [make(seed) for seed in seeds]
    for run in apart:
        torch.manual_seed(run.seed)
        run_stream(run)
    for run in together:
        torch.manual_seed(run.seed)
        run.keep_draws()
    run_stream(*together)
    for one, other in zip(apart, together, strict=True):
        for (name, a), b in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")
        rows = [[(r.task, r.phase, r.steps, r.samples, r.flops) for r in run.meter.rows] for run in (one, other)]
        assert sorted(rows[0], key=str) == sorted(rows[1], key=str)
        assert one.progress.full_flops(one.progress.seen) == other.progress.full_flops(other.progress.seen)
        assert one.progress.state_bytes == other.progress.state_bytes
        for a, b in zip(one.progress.accuracy, other.progress.accuracy, strict=True):
            assert all(x == y or abs(x - y) <= 0.02 for x, y in zip(a, b, strict=True))
    weights = [next(iter(run.model.parameters())) for run in together]
    assert not torch.equal(weights[0], weights[1])
    return apart, together


STACKED = [s for s in SELECTORS if s not in OF_TRANSFORMERS]  # transformers are stacked on a GPU only
KINDS = ("last_k", "freezeout")  # one that stays, one that changes


@pytest.mark.parametrize(
    ("strategy", "selector"),
    [*((s, k) for s in STRATEGIES for k in KINDS), *(("replay", s) for s in STACKED if s not in KINDS)],
)
def test_every_strategy_and_every_selector(strategy, selector, make_run):
    stream = from_arrays("digits", tasks=2, scenario="task", samples_per_class=20)

    def make(seed):
        return make_run(
            build_strategy(strategy), build_selector(selector), model=model_for(selector, strategy), stream=stream,
            optimizer=momentum, epochs=1, seed=seed,
        )  # fmt: skip

    both(make, seeds=(0, 1))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, partial(torch.optim.AdamW, fused=True)])
@pytest.mark.parametrize("kept", ["reset", "keep"])
def test_optimizers_and_their_state(optimizer, kept, make_run):
    both(lambda seed: make_run(optimizer=partial(optimizer, lr=0.01), optimizer_state=kept, seed=seed))


@pytest.mark.parametrize(
    "model", [partial(mlp, dropout=0.3), partial(slim_resnet18, filters=2), partial(cnn, channels=[4, 8]),
              partial(vit, patch=4, width=8, depth=2, heads=2, dropout=0.1)],
    ids=["dropout", "batch-norm", "cnn", "transformer"],
)  # fmt: skip
def test_models(model, make_run, monkeypatch):
    """On a GPU these are stacked too; here they would be trained one after another."""
    monkeypatch.setattr(fast, "pays", lambda model, device: True)
    stream = from_arrays("digits", tasks=2, samples_per_class=40)
    for (
        task
    ) in stream.tasks:  # in double precision and few steps: batch-norm blows up what is rounded off a thousandfold each
        for source in (task.train, task.test):
            source.x = source.x.double()
    both(
        lambda seed: make_run(model=lambda *a: model(*a).double(), stream=stream, seed=seed, batch_size=64),
        tolerance=1e-8,
    )


def test_each_seed_has_its_own_data_classes_and_replay(make_run):
    def make(seed):
        stream = from_arrays("digits", samples_per_class=40, class_order="random", seed=seed)
        return make_run(Replay(capacity=20, batch_size=8, seed=seed), stream=stream, seed=seed)

    both(make)


def test_permuted_pixels_differ_from_seed_to_seed(make_run):
    def make(seed):
        stream = from_arrays("digits", "permuted", tasks=3, scenario="domain", samples_per_class=20, seed=seed)
        return make_run(stream=stream, seed=seed)

    both(make)


def test_random_images(make_run):
    both(lambda seed: make_run(augment=("flip", "crop"), seed=seed, epochs=1))
    assert Augmentation(("flip",))


@pytest.mark.parametrize("views", [0, 3])
def test_prefix_cache(views, make_run):
    def make(seed):
        augment = ("flip",) if views else ()
        return make_run(
            Replay(capacity=20, batch_size=8), LastK(k=1, warmup_tasks=1), model=partial(mlp, hidden=[16, 16, 16]), epochs=3,
            seed=seed, prefix_cache="on", prefix_cache_views=views, augment=augment,
        )  # fmt: skip

    _, together = both(make)
    assert all(run.backend.notes[-1]["used"] for run in together)


def test_hooks_see_one_seed(make_run):
    """A method that owns its loss, its gradients and its look after the step works on a stack as it is."""

    class Odd(Strategy):
        def __init__(self):
            self.norms: list[float] = []

        def criterion(self, step, batch, logits):
            assert logits.shape == (len(batch), 10)
            return super().criterion(step, batch, logits) * 1.5

        def project(self, step, batch, grads):
            return {name: g.clamp(-0.01, 0.01) for name, g in grads.items()}

        def after_step(self, step, batch, grads):
            self.norms.append(float(sum(g.square().sum() for g in grads.values())))

        def state_dict(self):  # so that the probe which counts operations leaves no trace
            return {"norms": list(self.norms)}

        def load_state_dict(self, state):
            self.norms = list(state["norms"])

    apart, together = both(lambda seed: make_run(Odd(), seed=seed, epochs=1))
    for one, other in zip(apart, together, strict=True):
        assert other.strategy.norms == pytest.approx(one.strategy.norms, rel=1e-3)


def test_a_checkpoint_in_the_middle_goes_on_alone(make_run):
    """What a stack saves is an ordinary run's checkpoint."""
    states: dict[int, list] = {0: [], 1: []}

    def make(seed, save=None, strategy=None):
        return make_run(strategy or EWC(strength=10.0), optimizer=partial(torch.optim.Adam, lr=0.01), seed=seed, save=save,
                        checkpoint_every_s=0.0, epochs=6)  # fmt: skip

    runs = [make(seed, lambda state, seed=seed: states[seed].append(copy.deepcopy(state))) for seed in (0, 1)]
    for run in runs:
        run.keep_draws()
    from frostline.loop import watching as lookout

    every, lookout.LOOK_EVERY_S = lookout.LOOK_EVERY_S, 0.0
    try:
        run_stream(*runs)
    finally:
        lookout.LOOK_EVERY_S = every
    middle = next(state for state in states[1] if state["progress"]["task"] == 2 and state["progress"]["step"] % 7 == 5)
    alone = make(1)
    alone.load_state_dict(middle)
    run_stream(alone)
    for a, b in zip(alone.model.parameters(), runs[1].model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)


def test_seconds_are_shared(make_run):
    runs = [make_run(Finetune(), Everything(), seed=seed, epochs=20) for seed in range(4)]
    for run in runs:
        run.keep_draws()
    import time

    begin = time.perf_counter()
    run_stream(*runs)
    wall = time.perf_counter() - begin
    assert sum(row.seconds for run in runs for row in run.meter.rows) <= wall * 1.02


def test_memories_that_fill_at_every_step_have_the_same_bill(make_run):
    """A step's price was asked for after the step, when the memory had grown: 3,251,200 operations for 2,731,008."""
    both(lambda seed: make_run(Replay(capacity=40, update="step"), seed=seed, epochs=2))


@pytest.mark.parametrize("strategy", ["der_pp", "lwf", "packnet", "[replay,er_ace]", "slda", "continual_backprop"])
def test_methods_that_ask_for_more_than_a_loss(strategy, make_run):
    both(lambda seed: make_run(build_strategy(strategy), LastK(k=1, warmup_tasks=1), seed=seed))
