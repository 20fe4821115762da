"""The cached run against the plain one, and every way in which a cache could lie."""

import copy
from functools import partial

import pytest
import torch

from frostline.core.scope import Scope
from frostline.loop import watching as lookout
from frostline.loop.lesson import Lesson
from frostline.loop.settings import TrainerConfig
from frostline.loop.training import run_stream
from frostline.models import Classifier, mlp, slim_resnet18
from frostline.selectors import Everything, HeadOnly, LastK, Pattern
from frostline.speed.activations import Cache, frost_line, prefix_digest
from frostline.speed.prefix import Prefix, check_settings
from frostline.strategies import EWC, Chain, Cumulative, Finetune, Joint, Replay
from frostline.streams import from_arrays

resnet = partial(slim_resnet18, filters=4)
STRATEGIES = {
    "finetune": Finetune,
    "replay": lambda: Replay(capacity=40),
    "replay by step": lambda: Replay(capacity=40, update="step"),
    "replay and ewc": lambda: Chain([Replay(capacity=40), EWC(strength=1.0)]),
    "cumulative": Cumulative,
    "joint": Joint,
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("model", "k"), [(None, 0), (None, 1), (resnet, 2)], ids=["head", "last 1", "resnet"])
def test_cached_equals_uncached_and_costs_less(strategy, model, k, make_run):
    runs = {}
    for mode in ("off", "on"):
        runs[mode] = make_run(
            STRATEGIES[strategy](), LastK(k=k, warmup_tasks=1), model=model, epochs=3, prefix_cache=mode
        )
        run_stream(runs[mode])
    assert runs["on"].progress.accuracy == runs["off"].progress.accuracy
    for (name, a), b in zip(runs["on"].model.named_parameters(), runs["off"].model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
    assert [note["used"] for note in runs["on"].backend.notes] == (
        [True] if strategy == "joint" else [False] + [True] * 4
    )


def rows(run, phase):
    return [row for row in run.meter.rows if row.phase == phase]


def test_the_bill_has_the_building_and_not_the_prefix(make_run):
    plain = make_run(selector=HeadOnly(warmup_tasks=1), epochs=3)
    cached = make_run(selector=HeadOnly(warmup_tasks=1), epochs=3, prefix_cache="auto")
    run_stream(plain)
    run_stream(cached)
    task = plain.stream[1]
    hidden = 2 * (64 * 32 + 32 * 32)  # forward operations of one sample through the two frozen layers
    for a, b, build in zip(rows(plain, "train")[1:], rows(cached, "train")[1:], rows(cached, "cache"), strict=True):
        assert a.flops - b.flops == 3 * len(task.train) * hidden
        assert build.flops == len(task.train) * hidden
        assert build.samples == len(task.train)
        assert build.stored_bytes == len(task.train) * 32 * 4
        assert build.seconds > 0
        assert b.stored_bytes == build.stored_bytes
    assert len(rows(cached, "cache")) == 4
    assert cached.progress.full_flops(cached.progress.seen) == plain.progress.full_flops(plain.progress.seen)


def test_the_bill_equals_a_run_counted_from_beginning_to_end(make_run, count_every_step):
    run = make_run(Replay(capacity=40), LastK(k=1, warmup_tasks=1), epochs=3, prefix_cache="on")
    run_stream(run)
    assert sum(row.flops for row in rows(run, "train")) == sum(count_every_step) > 0


def test_a_file_and_a_smaller_type_give_the_same_result(make_run, tmp_path):
    results = {}
    for name, settings in {
        "memory": {},
        "file": {"prefix_cache_gib": 0.0},
        "half": {"prefix_cache_dtype": "float16", "prefix_cache_gib": 0.0},
    }.items():
        run = make_run(selector=LastK(k=1, warmup_tasks=1), epochs=3, prefix_cache="on", **settings)
        run.folder = tmp_path
        run_stream(run)
        results[name] = run
    assert results["memory"].backend.notes[1]["where"] == "memory"
    assert results["file"].backend.notes[1]["where"] == "file"
    assert results["half"].backend.notes[1]["bytes"] * 2 == results["file"].backend.notes[1]["bytes"]
    assert list(tmp_path.iterdir()) == []
    for a, b in zip(results["memory"].model.parameters(), results["file"].model.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(results["memory"].model.parameters(), results["half"].model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=2e-3)


def test_why_there_is_no_cache(make_run):
    class Opaque(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.last = inner.head

        def forward(self, x):
            return self.inner(x)

    class Mixing(Finetune):
        def augment(self, step, batch):
            return batch

    cases = {
        "prefix_cache=off": {"prefix_cache": "off"},
        "no layer is frozen": {"selector": Everything()},
        "no later pass": {"epochs": 1},
        "Opaque has no stages": {"model": lambda *a: Opaque(mlp(*a, hidden=[8]))},
        "is random": {"model": partial(mlp, hidden=[8], dropout=0.5)},
        "Mixing changes batches": {"strategy": Mixing()},
    }
    for reason, changed in cases.items():
        run = make_run(**{"selector": HeadOnly(warmup_tasks=1), "epochs": 2, "prefix_cache": "auto", **changed})
        run_stream(run)
        assert not run.backend.notes[1]["used"]
        assert reason in run.backend.notes[1]["reason"]
        assert not rows(run, "cache")


def test_what_cannot_be_is_refused(make_run):
    net = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"Linear has no stages\(\)"):
        check_settings(TrainerConfig(prefix_cache="on"), net)
    with pytest.raises(ValueError, match=r"Expected trainer\.prefix_cache_views=4"):
        check_settings(TrainerConfig(prefix_cache="on", augment=["flip"]), mlp((2,), 2))
    check_settings(TrainerConfig(prefix_cache="auto", augment=["flip"]), mlp((2,), 2))
    run = make_run(selector=HeadOnly(), model=partial(mlp, hidden=[8], dropout=0.5), prefix_cache="on")
    with pytest.raises(ValueError, match="is random"):
        run_stream(run)
    with pytest.raises(ValueError, match=r"trainer\.prefix_cache_dtype='float8'"):
        make_run(prefix_cache_dtype="float8")


def test_views_of_random_images(make_run):
    stream = from_arrays("fashion_mnist_mini", samples_per_class=10)
    run = make_run(
        Replay(capacity=10),
        HeadOnly(warmup_tasks=1),
        stream=stream,
        epochs=5,
        augment=["flip", "crop"],
        prefix_cache="auto",
        prefix_cache_views=3,
    )
    run_stream(run)
    note = run.backend.notes[1]
    assert (note["used"], note["views"], note["samples"]) == (True, 3, 30)
    assert rows(run, "cache")[0].samples == 90


def cache_of(run, line=2):
    with Scope(run.model, HeadOnly()(run.model, run.stream[0], None)).thawed():
        cache = Cache(run, line, 1)
        cache.fill(run.stream[1], [], lambda x: x)
    return cache


def test_rows_belong_to_their_samples_in_any_order(make_run):
    run = make_run()
    cache = cache_of(run)
    batch = next(iter(run.stream[1].train.batches(50, torch.randperm(len(run.stream[1].train)))))
    state = batch.x
    for stage in run.model.stages()[:2]:
        state = stage(state)
    torch.testing.assert_close(cache.read(batch.index), state)
    assert not cache.missed()
    for task in (0, 2):
        other = next(iter(run.stream[task].train.batches(5))).index
        assert cache.read(other).isnan().all()
        assert cache.missed()


def test_a_strategy_that_forgets_to_name_its_samples_is_caught(make_run):
    class Forgetful(Replay):
        def remembered(self):
            return []

    run = make_run(Forgetful(capacity=40), HeadOnly(warmup_tasks=1), epochs=2, prefix_cache="on")
    with pytest.raises(RuntimeError, match="was not in the prefix cache"):
        run_stream(run)


@pytest.mark.parametrize(("strategy", "reads"), [("finetune", False), ("replay", True), ("joint", False)])
def test_cached_steps_read_samples_only_where_the_strategy_looks(strategy, reads, make_run):
    run = make_run(STRATEGIES[strategy](), HeadOnly(), epochs=3, prefix_cache="on", reference_steps=1)
    seen = []
    augment = run.strategy.augment
    run.strategy.augment = lambda step, batch: seen.append(batch.x.numel()) or augment(step, batch)
    run_stream(run)
    assert all(seen) if reads else not any(seen)


def test_other_weights_are_never_read(make_run):
    run = make_run(selector=HeadOnly(), prefix_cache="on")
    prefix, lesson = Prefix(), Lesson(run, run.stream[1])
    names = HeadOnly()(run.model, run.stream[1], None)
    with Scope(run.model, names).thawed() as scope:
        prefix.enter(lesson, scope)
        first = prefix.cache
        prefix.enter(lesson, scope)
        assert prefix.cache is first
        run.model.backbone.layer1[0].weight.data[0, 0] += 1.0
        prefix.enter(lesson, scope)
        assert prefix.cache is not first
        assert prefix.cache.digest == prefix_digest(run.model, prefix.cache.line)


def test_a_deeper_line_goes_on_from_the_shallower_cache(make_run):
    run = make_run(prefix_cache="on", model=partial(mlp, hidden=[32, 16, 8]))
    prefix, lesson = Prefix(), Lesson(run, run.stream[1])
    for include, line in ((["layer2", "layer3", "head"], 2), (["head"], 4)):
        with Scope(run.model, Pattern(include=include)(run.model, run.stream[1], None)).thawed() as scope:
            assert prefix.enter(lesson, scope).line == line
    fresh = cache_of(run, line=4)
    index = next(iter(run.stream[1].train.batches(20))).index
    torch.testing.assert_close(prefix.cache.read(index), fresh.read(index))
    built = rows(run, "cache")[0].flops
    assert built == len(run.stream[1].train) * 2 * (64 * 32 + 32 * 16 + 16 * 8)  # nothing twice
    with Scope(run.model, Pattern(include=["layer1", "head"])(run.model, run.stream[1], None)).thawed() as scope:
        assert prefix.enter(lesson, scope).line == 0


def test_frost_line_stops_at_a_norm_that_moves():
    net = Classifier(
        torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 3), torch.nn.Sequential(torch.nn.BatchNorm2d(2, affine=False)), torch.nn.Flatten()
        ),
        72,
        3,
    )
    assert frost_line(net.eval()) == 0
    with Scope(net, frozenset({"head.weight"})).thawed():
        moving = net.backbone[1][0].training
        assert frost_line(net) == (1 if moving else 3)


@pytest.mark.parametrize("update", ["task", "step"])
def test_resumed_equals_uninterrupted(update, make_run):
    def build(save=None):
        selector = LastK(k=1, warmup_tasks=1)
        strategy = Replay(capacity=40, update=update)
        return make_run(strategy, selector, epochs=3, prefix_cache="on", save=save, checkpoint_every_s=0.0)

    whole, states = build(), []
    run_stream(whole)
    look, lookout.LOOK_EVERY_S = lookout.LOOK_EVERY_S, 0.0
    try:
        run_stream(build(lambda state: states.append(copy.deepcopy(state))))
    finally:
        lookout.LOOK_EVERY_S = look
    middle = next(s for s in states if s["progress"]["task"] == 3 and s["progress"]["step"] == 5)
    second = build()
    second.load_state_dict(middle)
    run_stream(second)
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    keys = ("task", "phase", "steps", "samples", "flops", "stored_bytes")
    assert [[getattr(r, k) for k in keys] for r in whole.meter.rows] == [
        [getattr(r, k) for k in keys] for r in second.meter.rows
    ]
    assert whole.backend.notes == second.backend.notes
