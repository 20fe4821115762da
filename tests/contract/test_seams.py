"""What methods ask of the seams, and the faults that there were: each test fails without its mending."""

import copy
import re
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from frostline.app.config import conf_dir
from frostline.core.checks import UsageError
from frostline.core.sources import MemorySource, TensorSource
from frostline.core.step import Step
from frostline.core.tensors import to_device
from frostline.core.types import Batch, Task, TaskStream
from frostline.loop import training
from frostline.loop.plain import Plain
from frostline.loop.settings import TrainerConfig
from frostline.loop.training import run_stream
from frostline.models import mlp, slim_resnet18
from frostline.selectors import LISA, Everything, HeadOnly, LastK
from frostline.strategies import EWC, Chain, DERpp, Finetune, LwF, PackNet, Replay, Strategy
from tests.contract.test_contract import (
    FOR_PERCEPTRONS,
    FOR_TRANSFORMERS,
    STRATEGIES,
    assert_same,
    build_selector,
    build_strategy,
    model_for,
    transformer,
)  # fmt: skip

narrow = partial(slim_resnet18, filters=2)
deep = partial(mlp, hidden=[16, 16, 16])


def own_tensors(lengths=(40, 65, 33)) -> TaskStream:
    """A stream whose tasks each own a tensor of another length, as an adapter's first version has them."""
    rng = torch.Generator().manual_seed(0)
    tasks = []
    for t, length in enumerate(lengths):
        y = torch.randint(0, 3, (length,), generator=rng)
        x = torch.randn(length, 1, 4, 4, generator=rng) + y[:, None, None, None] + t
        source = TensorSource(x, y, torch.arange(length), t)
        tasks.append(Task(t, str(t), (0, 1, 2), source, source))
    return TaskStream("own", "domain", tuple(tasks), 3, (1, 4, 4))


class Tokens(nn.Module):
    """A net that answers at every token: [B, L] ids to [B, L, C]."""

    def __init__(self, shape, classes):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        h = self.embedding(x)
        return self.head(torch.tanh(self.mix(h + h.mean(1, keepdim=True))))


def token_stream(tasks=2, length=6) -> TaskStream:
    """Sequences in which the target of a token is its id modulo 4, plus the task; every third target does not count."""
    rng, made = torch.Generator().manual_seed(0), []
    for t in range(tasks):
        x = torch.randint(0, 20, (48, length), generator=rng)
        y = (x + t) % 4
        y[:, ::3] = -100
        source = TensorSource(x, y, torch.arange(48), t)
        made.append(Task(t, str(t), (0, 1, 2, 3), source, source))
    return TaskStream("tokens", "domain", tuple(made), 4, (length,))


def test_tasks_that_own_their_tensors_share_no_ids(make_run):
    """Ids were rows + task * len(x): the prefix cache answered with another task's samples, without a word."""
    runs = {}
    for mode in ("off", "on"):
        runs[mode] = make_run(
            Replay(capacity=30), HeadOnly(), stream=own_tensors(), model=deep, epochs=3, batch_size=8, prefix_cache=mode
        )
        run_stream(runs[mode])
    ids = torch.cat([b.index for task in runs["on"].stream.tasks for b in task.train.batches(64)])
    assert len(ids.unique()) == len(ids)
    assert runs["on"].backend.notes[-1]["used"]
    assert runs["on"].progress.accuracy == runs["off"].progress.accuracy


def test_a_stream_whose_tasks_are_misnumbered_is_refused():
    stream = own_tensors()
    with pytest.raises(ValueError, match="count from 0"):
        TaskStream("twice", "domain", (stream[0], stream[0]), 3, (1, 4, 4))


def test_teacher_and_student_see_the_same_random_images(make_run):
    """Of two equal nets the distance is 0, whatever images were drawn; crops drawn in the forward pass gave 1.3e-3."""
    from frostline.streams import from_arrays

    stream = from_arrays("fashion_mnist_mini", tasks=5, scenario="class", samples_per_class=20)
    seen = []

    class Spy(LwF):
        def penalty(self, step, batch, logits):
            value = super().penalty(step, batch, logits)
            if step.task.index == 1 and step.number == 0:
                seen.append(float(value.detach()))
            return value

    frozen = partial(torch.optim.SGD, lr=1e-30)
    run = make_run(Spy(), stream=stream, optimizer=frozen, augment=["flip", "crop"], epochs=1)
    run_stream(run)
    assert seen
    assert max(seen) < 1e-6


def test_after_task_sees_all_that_trained(make_run):
    """Under LISA the scope of the last stretch is a part of what trained."""
    scopes = []

    class Look(Finetune):
        def after_task(self, scope, task):
            scopes.append(scope.names)

    run = make_run(Look(), LISA(k=1, interval=2), model=deep, epochs=3)
    trained: dict[int, set] = {}
    enter = run.backend.enter

    def spy(lesson, scope):
        trained.setdefault(lesson.task.index, set()).update(scope.names)
        return enter(lesson, scope)

    run.backend.enter = spy
    run_stream(run)
    assert scopes == [frozenset(trained[t]) for t in range(5)]


class Growing(nn.Module):
    """A net to which a hidden layer's units are added."""

    def __init__(self, shape, classes):
        super().__init__()
        self.first = nn.Linear(64, 8)
        self.head = nn.Linear(8, classes)

    def grow(self, units: int) -> None:
        wide, answer = nn.Linear(64, self.first.out_features + units), nn.Linear(8 + units, self.head.out_features)
        with torch.no_grad():
            wide.weight[: len(self.first.weight)], wide.bias[: len(self.first.bias)] = (
                self.first.weight,
                self.first.bias,
            )
            answer.weight[:, : self.head.in_features] = self.head.weight
            answer.bias.copy_(self.head.bias)
        self.first, self.head = wide, answer

    def forward(self, x):
        return self.head(torch.relu(self.first(x.flatten(1))))


class Grow(Strategy):
    """Eight more units for the second task."""

    def prepare(self, model, index):
        if index == 1:
            model.grow(8)


def test_a_model_that_grows_is_priced_as_it_is(make_run, count_every_step):
    """Prices counted once a run were those of the model as it began."""
    run = make_run(Grow(), model=Growing, epochs=1)
    run_stream(run)
    train = [row for row in run.meter.rows if row.phase == "train"]
    assert sum(row.flops for row in train) == sum(count_every_step)
    evaluate = {row.task: row.flops / row.samples for row in run.meter.rows if row.phase == "evaluate"}
    assert evaluate[0] == 2 * (64 * 8 + 8 * 10)
    assert evaluate[1] == 2 * (64 * 16 + 16 * 10)
    assert run.progress.full_flops(run.progress.seen) == sum(row.flops for row in train)


def test_a_model_that_grows_is_resumed(make_run):
    states = []
    whole = make_run(Grow(), model=Growing, epochs=1, save=lambda state: states.append(copy.deepcopy(state)))
    run_stream(whole)
    for state in states[1:4]:
        second = make_run(Grow(), model=Growing, epochs=1)
        second.load_state_dict(copy.deepcopy(state))
        run_stream(second)
        assert_same(whole, second)


def test_projecting_methods_see_the_samples(make_run):
    """`project` was not among the hooks that are given samples: shapes (32x0 and 64x32)."""

    class Reference(Strategy):
        def project(self, step, batch, grads):
            assert batch.x.shape[1:] == (1, 8, 8)
            step.forward(batch)
            return grads

    run = make_run(Reference(), HeadOnly(), epochs=3, prefix_cache="on")
    run_stream(run)
    assert run.backend.notes[-1]["used"]


def test_tuples_travel_to_the_device():
    moved = to_device({"a": (torch.ones(1), [torch.ones(2)])}, torch.device("meta"))
    assert moved["a"][0].device.type == moved["a"][1][0].device.type == "meta"
    assert isinstance(moved["a"], tuple)


@pytest.mark.parametrize("selector", ["freezeout", "last_k", "lisa"])
def test_a_task_without_epochs_costs_nothing_and_moves_nothing(selector, make_run):
    class Idle(Strategy):
        def parts(self, task):
            return [Task(**{**vars(task), "epochs": 0})]

    run = make_run(Idle(), build_selector(selector))
    before = copy.deepcopy(run.model.state_dict())
    run_stream(run)
    assert all(torch.equal(before[n], t) for n, t in run.model.state_dict().items())
    assert sum(row.flops for row in run.meter.rows if row.phase != "evaluate") == 0


def test_the_yaml_says_what_the_trainer_does_by_default():
    written = yaml.safe_load((conf_dir() / "trainer/default.yaml").read_text())
    assert written == vars(TrainerConfig())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_only_faster_changes_no_number(strategy, make_run):
    """The rule of speed/: with all of it switched off every number stays, up to rounding, and so does the bill of training."""
    runs = []
    for backend in (Plain(), None):
        selector, model = LastK(k=1, warmup_tasks=1), model_for("everything", strategy)
        runs.append(make_run(build_strategy(strategy), selector, model=model, backend=backend, prefix_cache="auto"))
        run_stream(runs[-1])
    plain, fast = runs
    for a, b in zip(plain.model.state_dict().values(), fast.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    for a, b in zip(plain.progress.loss, fast.progress.loss, strict=True):
        np.testing.assert_allclose(np.array(a, float), np.array(b, float), rtol=2e-3, atol=1e-3)
    assert [(r.task, r.steps, r.samples) for r in plain.meter.rows if r.phase == "train"] == [
        (r.task, r.steps, r.samples) for r in fast.meter.rows if r.phase == "train"
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_probe_leaves_no_trace(strategy, make_run, monkeypatch):
    """Run three times instead of once, with batch-norm and dropout in the net."""
    model = partial(mlp, hidden=[16, 16], dropout=0.2) if strategy in FOR_PERCEPTRONS else narrow
    model = partial(transformer, dropout=0.2) if strategy in FOR_TRANSFORMERS else model
    model = model_for("lora") if strategy == "o_lora" else model
    plain = training.StepCounter._probe
    runs = []
    for probe in (plain, lambda self, batch: [plain(self, batch) for _ in range(3)][-1]):
        monkeypatch.setattr(training.StepCounter, "_probe", probe)
        runs.append(make_run(build_strategy(strategy), LastK(k=1, warmup_tasks=1), model=model, epochs=1))
        run_stream(runs[-1])
    assert_same(*runs)


def test_a_probe_moves_no_weight_that_a_method_moves_after_a_step(make_run, monkeypatch):
    """It once did: such a method's first step counted twice, and a resumed run was another one."""

    class Shrink(Strategy):
        def after_step(self, step, batch, grads):
            for p in step.scope.parameters.values():
                p.data = p.data * 0.9

    plain = training.StepCounter._probe
    runs = []
    for probe in (plain, lambda self, batch: [plain(self, batch) for _ in range(3)][-1]):
        monkeypatch.setattr(training.StepCounter, "_probe", probe)
        runs.append(make_run(Shrink(), epochs=1))
        run_stream(runs[-1])
    assert_same(*runs)


@pytest.mark.parametrize("strategy", ["finetune", "ewc", "replay", "lwf", "der_pp", "[replay,ewc]"])
def test_one_label_a_token(strategy, make_run):
    """[B, L] targets of which some do not count, through every seam."""
    adam = partial(torch.optim.Adam, lr=0.02)
    run = make_run(
        build_strategy(strategy), stream=token_stream(), model=Tokens, optimizer=adam, epochs=10, batch_size=16
    )
    run_stream(run)
    task = run.stream[1]
    batch = next(iter(task.test.batches(48)))
    logits = run.model(batch.x).detach()
    keep = batch.y != -100
    right = (logits.argmax(-1)[keep] == batch.y[keep]).float().mean()
    assert run.progress.accuracy[2][1] == pytest.approx(float(right))
    assert run.progress.loss[2][1] == pytest.approx(float(F.cross_entropy(logits[keep], batch.y[keep])), rel=1e-4)
    if strategy == "finetune":
        assert run.progress.accuracy[2][1] > 0.9


def test_seeds_at_once_with_tokens(make_run):
    apart, together = ([make_run(stream=token_stream(), model=Tokens, seed=s) for s in (0, 1)] for _ in range(2))
    for run in apart:
        run_stream(run)
    for run in together:
        run.keep_draws()
    run_stream(*together)
    for one, other in zip(apart, together, strict=True):
        assert one.progress.accuracy == other.progress.accuracy


def test_distillation_is_over_the_classes(make_run):
    """A KL over the wrong dimension of [B, L, C] runs unnoticed: 2.926 instead of 2.921."""
    torch.manual_seed(0)
    new, old = torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    y = torch.randint(0, 4, (5, 3))
    y[0, 0] = -100
    task, lwf = token_stream()[0], LwF(temperature=1.0, strength=1.0)
    lwf.teacher, lwf.groups = {"": new}, [torch.arange(4)]
    step = Step(None, task, 1, None)
    step.raw, step.teacher = new, lambda batch, weights: old
    p, q = old.softmax(-1), new.softmax(-1)
    by_hand = (p * (p / q).log()).sum(-1)[y != -100].mean()
    ours = lwf.penalty(step, Batch(new, y, y[:, 0], y[:, 0]), new)
    torch.testing.assert_close(ours, by_hand)


@pytest.mark.parametrize("members", [("replay", "der_pp"), ("lwf", "replay"), ("ewc", "der_pp"), ("replay", "er_ace")])
def test_the_order_of_a_chain_does_not_matter(members, make_run):
    """[replay, der_pp] and [der_pp, replay] were .495 and .145."""
    runs = []
    for order in (members, members[::-1]):
        runs.append(make_run(Chain([build_strategy(name) for name in order]), epochs=1))
        run_stream(runs[-1])
    for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_packnet_forgets_nothing(make_run):
    run = make_run(PackNet(prune=0.5), model=deep, epochs=3)
    run_stream(run)
    for task in range(5):
        assert run.progress.accuracy[5][task] == run.progress.accuracy[task + 1][task]


def test_a_served_model_is_evaluated_as_served(make_run):
    """SLDA's last row equals scikit-learn's analysis of the same features."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    from frostline.core.scope import with_head
    from frostline.strategies import SLDA
    from frostline.streams import from_arrays

    stream = from_arrays("digits", scenario="class")
    run = make_run(SLDA(warmup_tasks=0, covariance="pooled", shrinkage=1e-6), stream=stream)
    run_stream(run)
    train, test = (
        [next(iter(getattr(task, which).batches(10_000))) for task in stream.tasks] for which in ("train", "test")
    )
    with torch.no_grad(), with_head(run.model, nn.Identity()):
        z, z_test = (torch.cat([run.model(b.x) for b in part]).numpy() for part in (train, test))
    y, y_test = (torch.cat([b.y for b in part]).numpy() for part in (train, test))
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(10, 0.1)).fit(z, y)
    counts = np.array([len(b) for b in test])
    ours = float(np.dot(run.progress.accuracy[5], counts) / counts.sum())
    assert ours == pytest.approx(theirs.score(z_test, y_test), abs=0.005)
    assert sum(row.flops for row in run.meter.rows if row.phase == "train") == 0
    assert all(row.flops > 0 for row in run.meter.rows if row.phase == "consolidate")


def test_streaming_covariance_is_the_papers_one_by_one():
    from frostline.strategies import SLDA

    torch.manual_seed(0)
    z, y = torch.randn(60, 4, dtype=torch.double), torch.randint(0, 3, (60,))
    ours = SLDA()
    for part in torch.arange(60).split(13):
        ours.learn(z[part], y[part], 3)
    means, counts = torch.zeros(3, 4, dtype=torch.double), torch.zeros(3)
    covariance = torch.zeros(4, 4, dtype=torch.double)
    for t in range(60):
        d = z[t] - means[y[t]]
        covariance = (t * covariance + t / (t + 1) * torch.outer(d, d)) / (t + 1)
        counts[y[t]] += 1
        means[y[t]] += d / counts[y[t]]
    torch.testing.assert_close(ours.scatter / 60, covariance)
    torch.testing.assert_close(ours.means, means)


def test_units_begin_again_where_they_are_of_no_use(make_run):
    from frostline.strategies import ContinualBackprop

    strategy = ContinualBackprop(rate=0.05, maturity=5)
    run = make_run(strategy, optimizer=partial(torch.optim.Adam, lr=1e-3), epochs=3)
    run_stream(run)
    assert strategy.drawn > 3
    assert all(int(age.min()) < int(age.max()) for age in strategy.age.values())
    with pytest.raises(ValueError, match="no hidden layer"):
        strategy.check(narrow((1, 8, 8), 10), run.stream)


def test_a_teacher_holds_only_what_thawed(make_run):
    """With the head alone in training, the copy is the head, not the net."""
    run = make_run(LwF(), HeadOnly(warmup_tasks=0), epochs=1)
    run_stream(run)
    head = sum(p.numel() * 4 for n, p in run.model.named_parameters() if n.startswith("head"))
    stored = [row.stored_bytes for row in run.meter.rows if row.phase == "train"]
    assert stored[0] == 0
    assert all(head < bytes_ < head + 1000 for bytes_ in stored[1:])


def test_ewc_and_lwf_see_layers_that_thaw_later(make_run):
    """Whatever LISA thaws, the teacher is the model as it was when the task began."""
    states, seen = [], []

    class Spy(LwF):
        def penalty(self, step, batch, logits):
            value = super().penalty(step, batch, logits)
            if step.task.index == 1 and self.teacher:
                old = copy.deepcopy(step.scope.model)
                old.load_state_dict(states[0])
                with torch.no_grad():
                    seen.append(torch.equal(old.eval()(batch.x), step.teacher(batch, self.teacher)))
            return value

    run = make_run(Spy(), LISA(k=1, interval=2), model=deep, epochs=2)
    run.save = lambda state: states.append(copy.deepcopy(state["model"])) if state["progress"]["task"] == 1 else None
    run_stream(run)
    assert len(seen) > 5
    assert all(seen)


def test_memory_is_data_to_learn_from(make_run):
    """A buffer as a source, with its columns and ids."""
    memory = DERpp(capacity=10)
    run = make_run(memory, epochs=1)
    run_stream(run)
    source = MemorySource(memory.memory.all())
    batches = list(source.batches(4, torch.randperm(10)))
    assert [len(b) for b in batches] == [4, 4, 2]
    assert batches[0].columns["answers"].shape == (4, 10)
    assert batches[0].replayed.all()
    assert next(iter(source.batches(4, samples=False))).x.shape == (4, 0)


def test_what_a_buffer_saves_is_what_it_holds(make_run):
    buffer = Replay(capacity=100_000)
    run = make_run(buffer, epochs=1)
    run_stream(run)
    saved = buffer.state_dict()["memory"]["columns"]["x"]
    assert saved.shape[0] == len(buffer.memory) == 500
    again = Replay(capacity=100_000)
    again.load_state_dict(copy.deepcopy(buffer.state_dict()))
    assert torch.equal(again.memory.all().x, buffer.memory.all().x)


def line():
    from frostline.core.objectives import Regression

    rng, tasks = torch.Generator().manual_seed(0), []
    for t in range(2):
        x = torch.randn(64, 5, generator=rng)
        source = TensorSource(x, x[:, 0] * (1 + t), torch.arange(64), t)
        tasks.append(Task(t, str(t), (), source, source, objective=Regression(tolerance=0.2)))
    return TaskStream("line", "domain", tuple(tasks), 1, (5,))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_regression_is_learned_or_refused_by_name(strategy, make_run):
    """What needs classes says so before training: neither a traceback nor a penalty that is always nothing."""
    stream = line()
    built, refusal = build_strategy(strategy), ""
    try:
        built.check(mlp(stream.shape, 1, hidden=[8]), stream)
    except UsageError as error:
        refusal = str(error)
    if refusal:
        assert re.match(
            r"strategy=\w+ (with buffer=\w+ )?(needs (one class|classes|adapters)|decides each task)", refusal
        )
        assert "buffer=" not in refusal or "buffer=reservoir needs none" in refusal
    else:
        run_stream(make_run(built, stream=stream, model=lambda s, c: mlp(s, 1, hidden=[8]), epochs=1))


def test_regression_is_an_objective(make_run):
    stream = line()
    run = make_run(
        Chain([Replay(capacity=20), EWC(strength=0.1)]),
        stream=stream,
        model=lambda s, c: mlp(s, 1, hidden=[]),
        epochs=60,
    )
    run_stream(run)
    assert run.progress.loss[1][0] < 0.01
    assert run.progress.accuracy[1][0] > 0.95
    assert run.progress.loss[0][0] > 0.1


def test_everything_is_frozen_or_not_but_never_written(make_run):
    """SLDA answers with a head of its own: the net's stays as the first task left it."""
    from frostline.strategies import SLDA

    states = []
    run = make_run(SLDA(), Everything(), save=lambda state: states.append(copy.deepcopy(state["model"])))
    run_stream(run)
    for name, value in run.model.state_dict().items():
        assert torch.equal(states[1][name], value)


@pytest.mark.parametrize(
    ("strategy", "share"), [("finetune", 1.0), ("cumulative", 3.0), ("joint", 1.0), ("replay", 1.7), ("packnet", 1.5)]
)
def test_the_price_of_a_method_is_beside_plain_finetuning(strategy, share, make_run):
    """`full fine-tuning of the same batches` calls replay as cheap as fine-tuning; its own data alone are what it is beside."""
    from frostline.records.results import against_full

    run = make_run(build_strategy(strategy), epochs=2)
    run_stream(run)
    found = against_full(run.meter, run.progress, True)
    assert found["flops_ratio"] == pytest.approx(1.0, rel=0.02)
    assert found["plain_flops_ratio"] == pytest.approx(share, rel=0.1)


def test_a_task_that_is_learned_without_a_step_counts(make_run):
    from frostline.records.results import against_full

    run = make_run(build_strategy("slda"), epochs=10, reference_steps=1)
    run_stream(run)
    found = against_full(run.meter, run.progress, False)
    assert sum(run.progress.plain.values()) == 10 * 500
    assert found["plain_flops_ratio"] < 0.4
    assert found["plain_seconds"] > 0


def test_distillation_asks_no_head_of_a_net(make_run):
    """A plain nn.Sequential, domain-incremental: the classes are all that it answers for."""

    def plain(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, classes))

    run = make_run(LwF(), stream=own_tensors(), model=plain, epochs=2)
    run_stream(run)
    assert run.strategy.groups
    assert run.progress.accuracy[-1][-1] is not None
