"""Every strategy with every selector: what holds for all of them."""

import copy
import functools
import itertools
import math
from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from frostline.app.config import check, conf_dir, register, without
from frostline.core.structure import everything
from frostline.costs import totals
from frostline.loop import watching as lookout
from frostline.loop.run import Observer
from frostline.loop.training import run_stream
from frostline.models import cnn, mlp, slim_resnet18, vit
from frostline.selectors import Everything
from frostline.strategies import EWC, Chain, ContinualBackprop, Finetune
from tests.models.test_llama import llama
from tests.models.test_transformers import tiny


def names(group: str) -> list[str]:
    return sorted(p.stem for p in (conf_dir() / group).glob("*.yaml"))


@functools.cache
def configured(*overrides: str):
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=["tracking=none", *overrides])


def build_strategy(name: str):
    members = [instantiate(node) for node in configured(f"strategy={name}").strategy.values()]
    for member in members:
        if hasattr(member, "strength"):
            member.strength = 10.0 if isinstance(member, EWC) else 1.0  # stable under momentum
        if hasattr(member, "projection") and isinstance(member.projection, int):
            member.projection = 50  # random features
        if isinstance(member, ContinualBackprop):
            member.rate, member.maturity = 0.02, 2
    return members[0] if len(members) == 1 else Chain(members)


SETTINGS = {
    "pattern": ["selector.include=[layer2,head]"],
    "top_gradient": ["selector.fraction=0.6"],
    "fisher": ["selector.fraction=0.6"],
    "rgn": ["selector.fraction=0.6"],
    "budget": ["selector.fraction=0.8"],
    "lisa": ["selector.interval=2"],
    "badam": ["selector.interval=2"],
    "lora": ["selector.rank=2"],
    "frozen head": ["selector.include=[layer2]"],
}
OF_TRANSFORMERS = (
    "attention_projections",
    "attention_qkv",
    "mlp",
    "mlp_gate_up",
    "mlp_down",
    "attention_vo",
    "norms",
    "embeddings",
    "lora",
    "lisa",
    "llama_pro",
)
transformer = partial(vit, patch=4, width=8, depth=2, heads=2)


def build_selector(name: str):
    group = "pattern" if name == "frozen head" else name
    return instantiate(configured(f"selector={group}", "selector.warmup_tasks=1", *SETTINGS.get(name, [])).selector)


def model_for(selector: str, strategy: str = ""):
    """Return what builds a net that has the parts which the rule and the strategy speak of, as a run builds it."""
    of_transformers = selector in OF_TRANSFORMERS or strategy in FOR_TRANSFORMERS

    def build(shape, classes):
        net = (transformer if of_transformers else partial(mlp, hidden=[32, 32]))(shape, classes)
        for name in [selector, *(["lora"] if strategy == "o_lora" and selector != "lora" else [])]:
            build_selector(name).prepare(net)
        return net

    return build


STRATEGIES = [*names("strategy"), "[replay,ewc]", "[replay,er_ace]", "[lwf,replay]"]
SELECTORS = [*names("selector"), "frozen head"]
WITHOUT_TRAINING = ("slda", "ncm", "fecam", "ranpac", "acil", "frozen")  # after the first task
FOR_TRANSFORMERS = ("l2p", "dualprompt", "coda_prompt")
FOR_PERCEPTRONS = ("continual_backprop", "redo", "hat", "pnn")
CHANGING = ("lisa", "badam", "freezeout", "autofreeze")  # those that change within a task
PAIRS = [
    (strategy, selector)
    for strategy, selector in itertools.product(STRATEGIES, SELECTORS)
    if (strategy not in FOR_PERCEPTRONS or selector not in OF_TRANSFORMERS)
    and (strategy not in FOR_TRANSFORMERS or selector != "frozen head")  # prompts are the head's
]
WHOLE = (
    "finetune",
    "replay",
    "[replay,ewc]",
    "[lwf,replay]",
    "packnet",
    "si",
    "independent",
    "gem",
)  # resumed in full, not slow
momentum = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)


COVERING = {  # every strategy and every selector meet the plain ones and each other in turn; the whole product is slow
    (strategy, selector)
    for place, strategy in enumerate(STRATEGIES)
    for selector in ("everything", "last_k", SELECTORS[place % len(SELECTORS)])
} | {("[replay,ewc]", selector) for selector in SELECTORS}


ADDITIVE = [name for name in STRATEGIES if build_strategy(name).additive()]


@pytest.mark.parametrize("strategy", ADDITIVE)
def test_parts_of_a_batch_teach_what_the_batch_does_where_a_strategy_says_so(strategy, make_run):
    runs = [
        make_run(
            build_strategy(strategy), build_selector("everything"), model=model_for("everything", strategy), epochs=1,
            micro_batch_size=size,
        )
        for size in (None, 10)
    ]  # fmt: skip
    for run in runs:
        run_stream(run)
    for p, q in zip(*(run.model.parameters() for run in runs), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("strategy", "selector"),
    [pytest.param(*pair, marks=() if pair in COVERING else pytest.mark.slow) for pair in PAIRS],
)
def test_frozen_stays_bit_identical_and_every_phase_is_charged(strategy, selector, make_run):
    run = make_run(
        build_strategy(strategy),
        build_selector(selector),
        model=model_for(selector, strategy),
        optimizer=momentum,
        epochs=1,
    )
    thawed: set[str] = set()
    before: dict[str, torch.Tensor] = {}

    def note():
        thawed.clear()
        before.update((n, p.detach().clone()) for n, p in run.model.named_parameters())

    class Watch(Observer):
        def started(self, run):
            note()

        def task_done(self, run, index):
            for name, p in run.model.named_parameters():
                if strategy == "o_lora" and "base_layer" in name:
                    continue  # what the adapters learned goes into them
                assert name in thawed or torch.equal(before.get(name, p), p), name  # some add parameters
            note()

    run.observers = [Watch()]
    during = run.selector.during

    def spy(model, task, names, step, steps):
        change = during(model, task, names, step, steps)
        assert change.names <= everything(model)
        thawed.update(change.names)
        return change

    run.selector.during = spy
    run_stream(run)
    known = [[value is None or math.isfinite(value) for value in row] for row in run.progress.loss]
    assert all(map(all, known))
    phases = {(row.task, row.phase): row for row in run.meter.rows}
    learned = [4] if strategy == "joint" else range(5)
    trained = [0] if strategy in WITHOUT_TRAINING else learned
    for task in learned:
        for phase in ("consolidate", "evaluate"):
            assert phases[task, phase].seconds > 0
    for task in trained:
        for phase in ("select", "train"):
            assert phases[task, phase].seconds > 0
        for phase in ("train", "evaluate"):
            row = phases[task, phase]
            assert row.flops > 0
            assert row.steps > 0
            assert row.samples > 0
            assert row.peak_memory_bytes > 0
        assert phases[task, "train"].trainable_parameters > 0
    if strategy in ("ewc", "replay", "cumulative", "joint", "[replay,ewc]", "der_pp", "packnet", "slda"):
        assert phases[4, "consolidate"].stored_bytes > 0
    if "ewc" in strategy:
        assert phases[4, "consolidate"].flops > 0  # the Fisher pass
    if selector in ("top_gradient", "fisher", "rgn", "snr", "budget"):
        assert phases[max(trained), "select"].flops > 0 or strategy in ("joint", *WITHOUT_TRAINING)
    assert totals(run.meter.rows)["flops"] == sum(row.flops for row in run.meter.rows)


@pytest.mark.parametrize(
    ("strategy", "selector"),
    [*itertools.product(STRATEGIES, ["last_k"]), *itertools.product(["replay"], ["lora", "budget", *CHANGING])],
)
def test_the_bill_equals_a_run_counted_from_beginning_to_end(strategy, selector, make_run, count_every_step):
    """The probe prices a step; here the counter watches every operator of every step."""
    run = make_run(build_strategy(strategy), build_selector(selector), model=model_for(selector, strategy), epochs=2)
    run_stream(run)
    assert sum(r.flops for r in run.meter.rows if r.phase == "train") == sum(count_every_step) > 0


@pytest.mark.parametrize(
    ("strategy", "selector"),
    [
        pytest.param(*p, marks=pytest.mark.slow if p[1] == "everything" and p[0] not in WHOLE else ())
        for p in PAIRS
        if p[1] in ("everything", "last_k") or (p[0] == "replay" and p[1] in ("lora", "rgn", *CHANGING))
    ],
)
def test_resumed_equals_uninterrupted(strategy, selector, make_run):
    def build(save=None):
        return make_run(
            build_strategy(strategy),
            build_selector(selector),
            model=model_for(selector, strategy),
            optimizer=momentum,
            save=save,
            checkpoint_every_s=0.0,
            prefix_cache="auto",
        )

    whole = build()
    run_stream(whole)
    states: list[dict] = []

    def save(state):
        states.append(copy.deepcopy(state))

    first = build(save)
    look, lookout.LOOK_EVERY_S = lookout.LOOK_EVERY_S, 0.0
    try:
        run_stream(first)
    finally:
        lookout.LOOK_EVERY_S = look
    first_task = 4 if strategy == "joint" else 0 if strategy in WITHOUT_TRAINING else 1
    middles = [s for s in states if s["progress"]["step"] > 0 and s["progress"]["task"] >= first_task]
    assert middles, "a checkpoint in the middle of an epoch"
    for state in (middles[len(middles) // 2], states[-2] if strategy != "joint" else middles[0]):
        second = build()
        second.load_state_dict(copy.deepcopy(state))
        run_stream(second)
        assert_same(whole, second)


def assert_same(a, b):
    assert a.progress.accuracy == b.progress.accuracy
    for (name, x), y in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        assert torch.equal(x, y), name
    keys = ("task", "phase", "steps", "samples", "flops", "stored_bytes", "trainable_parameters")
    rows = [[tuple(getattr(r, k) for k in keys) for r in run.meter.rows] for run in (a, b)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("strategy", names("strategy"))
def test_a_chain_of_one_equals_its_member(strategy, make_run):
    model = model_for("everything", strategy)
    alone = make_run(build_strategy(strategy), model=model)
    chained = make_run(Chain([build_strategy(strategy)]), model=model)
    run_stream(alone)
    run_stream(chained)
    assert_same(alone, chained)


def test_zero_strength_equals_finetuning(make_run):
    ewc = build_strategy("ewc")
    ewc.strength = 0.0
    plain, penalised = make_run(Finetune()), make_run(ewc)
    run_stream(plain)
    run_stream(penalised)
    assert plain.progress.accuracy == penalised.progress.accuracy


def test_same_seed_same_run_other_seed_other_weights_and_order(make_run):
    runs = [make_run(seed=s) for s in (0, 0, 1)]
    first = [copy.deepcopy(r.model.state_dict()) for r in runs]
    for run in runs:
        run_stream(run)
    assert_same(runs[0], runs[1])
    assert not torch.equal(first[0]["head.weight"], first[2]["head.weight"])
    other_order = make_run(seed=0)
    other_order.seed = 1
    run_stream(other_order)  # from the same initial weights
    assert not torch.equal(runs[0].model.state_dict()["head.weight"], other_order.model.state_dict()["head.weight"])


@pytest.mark.parametrize("build", [mlp, cnn, partial(slim_resnet18, filters=4)], ids=["mlp", "cnn", "slim_resnet18"])
def test_frozen_batch_norm_does_not_drift(build, make_run):
    run = make_run(Finetune(), build_selector("head"), model=build, epochs=1)
    run_stream_until_second_task(run)
    before = {n: b.clone() for n, b in run.model.named_buffers()}
    run_stream(run)
    for name, b in run.model.named_buffers():
        assert torch.equal(before[name], b), name


def run_stream_until_second_task(run):
    """Learn the warm-up task, after which all but the head is frozen."""

    class Enough(Exception):
        pass

    def stop(state):
        if run.progress.task:
            raise Enough

    run.save = stop
    with pytest.raises(Enough):
        run_stream(run)
    run.save = None


def test_replay_never_adds_steps(make_run):
    plain, replayed = make_run(Finetune()), make_run(build_strategy("replay"))
    run_stream(plain)
    run_stream(replayed)

    def steps(run):
        return [(r.task, r.steps) for r in run.meter.rows if r.phase == "train"]

    assert steps(plain) == steps(replayed)
    assert sum(r.samples for r in replayed.meter.rows) > sum(r.samples for r in plain.meter.rows)


@pytest.mark.parametrize(
    "override",
    [f"{g}={n}" for g in ("strategy", "selector", "optimizer", "schedule", "trainer", "tracking") for n in names(g)],
)
def test_every_yaml_fits_the_schema(override):
    cfg = configured(override)
    if override == "trainer=online":
        cfg.stream.online = True
    check(cfg)


@pytest.mark.parametrize("override", [f"stream={n}" for n in names("stream") if n != "arrays"])
def test_every_stream_yaml_fits_the_schema(override):
    check(configured(override))


@pytest.mark.parametrize("name", names("model"))
def test_every_model_yaml_builds_and_runs(name, tmp_path):
    folder, every = [f"model.path={tmp_path}"], name in ("causal_lm", "decoder", "decoder_small")  # token has an answer
    settings = {"huggingface": folder, "causal_lm": folder, "vit": ["model.patch=8", "model.depth=1"]}
    if name in ("huggingface", "causal_lm"):
        (tiny("llama") if name == "huggingface" else llama()).save_pretrained(tmp_path)
    cfg = configured(f"model={name}", *settings.get(name, []))
    check(cfg)
    text = every or name in ("huggingface", "minilm")
    model = instantiate(without(cfg.model, "weights"), shape=(9,) if text else (3, 32, 32), classes=50 if every else 4)
    shape = (2, 9, model.head.out_features) if every else (2, 4)
    assert model(torch.randint(1, 50, (2, 9)) if text else torch.randn(2, 3, 32, 32)).shape == shape
    state = torch.randint(1, 50, (2, 9)) if text else torch.randn(2, 3, 32, 32)
    model.eval()
    expected = model(state)
    for stage in model.stages():
        state = stage(state)
    torch.testing.assert_close(model.head(state), expected)


@pytest.mark.parametrize("name", [*names("experiment"), "partial_lm/nano", "partial_lm/pretrain_nano"])
def test_every_experiment_composes(name):
    check(configured(f"experiment={name}"))


def test_everything_is_the_default():
    assert isinstance(instantiate(configured().selector), Everything)
    assert configured("strategy=partial").selector._target_.endswith("LastK")
    assert configured("strategy=partial", "selector=head").selector._target_.endswith("HeadOnly")
