"""frostline.run on a stranger's net and data."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import frostline
from frostline.core.types import TaskStream
from frostline.strategies import Finetune, Replay


def net(width=32, classes=10):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))


@pytest.fixture(scope="module")
def pairs(digits):
    """Five tasks as arrays, as somebody has them in a notebook."""
    found = []
    for task in digits.tasks:
        train, test = (next(iter(getattr(task, which).batches(10_000))) for which in ("train", "test"))
        found.append(((train.x.numpy(), train.y.numpy()), (test.x.numpy(), test.y.tolist())))
    return found


def test_ten_lines_give_matrix_bill_and_plot(pairs, tmp_path):
    model = net()
    before = {n: p.clone() for n, p in model.named_parameters()}
    result = frostline.run(model, pairs, "replay", "last_k", epochs=2, progress=False)
    assert result.accuracy.shape == (6, 5)
    assert result.accuracy.loc["4"].mean() == pytest.approx(result.metrics["average_accuracy"])
    assert set(result.ledger["phase"]) >= {"train", "evaluate", "consolidate"}
    assert result.ledger.flops.sum() == result.content["totals"]["flops"] > 0
    assert result.sentence.startswith("Learned ")
    result.plot().savefig(tmp_path / "plot.png")
    result.plot_matrix().savefig(tmp_path / "matrix.png")
    result.save(tmp_path / "run")
    from frostline.report.compare import compare_folders

    assert len(compare_folders([tmp_path / "run"], tmp_path / "comparison")) == 1
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())  # a copy learned
    assert any(not torch.equal(before[n], p) for n, p in result.model.named_parameters())


def test_it_is_the_same_run_as_by_hand(pairs, make_run):
    """Data from arrays, a plain nn.Sequential, no configuration: the weights of the loop itself, bit for bit."""
    stream = frostline.from_tasks(pairs, scenario="task")
    result = frostline.run(net(), stream, Finetune(), epochs=2, batch_size=32, lr=0.05, progress=False)
    by_hand = make_run(stream=stream, model=lambda shape, classes: net())
    from frostline.loop.training import run_stream

    run_stream(by_hand)
    for a, b in zip(result.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_object_used_twice_carries_nothing_along(pairs):
    replay = Replay(capacity=20)
    first, second = (frostline.run(net(), pairs, replay, epochs=1, progress=False) for _ in range(2))
    assert first.accuracy.equals(second.accuracy)
    assert not len(replay.memory)


def test_the_global_random_state_is_left_alone(pairs):
    model = net()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    frostline.run(model, pairs, epochs=1, progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_partial_brings_its_selector_and_names_are_those_of_the_files(pairs):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    result = frostline.run(model, pairs, "partial", epochs=1, progress=False)
    trained = result.ledger[result.ledger.phase == "train"].trainable_parameters
    assert trained.iloc[-1] == 16 * 16 + 16 + 16 * 10 + 10 < trained.iloc[0]
    chained = frostline.run(net(), pairs, ["replay", "ewc"], epochs=1, progress=False)
    assert list(chained.content["config"]["strategy"]) == ["replay", "ewc"]


def test_lora_is_put_in(pairs):
    result = frostline.run(net(), pairs, selector="lora", epochs=1, progress=False)
    assert any("lora_" in name for name, _ in result.model.named_parameters())


@pytest.mark.parametrize("kind", ["tensors", "lists", "dataset", "large dataset"])
def test_any_kind_of_data(kind, pairs, monkeypatch):
    def convert(part):
        x, y = torch.as_tensor(part[0]), torch.as_tensor(part[1])
        return {"tensors": (x, y), "lists": (x.tolist(), y.tolist())}.get(kind, TensorDataset(x, y))

    if kind == "large dataset":
        monkeypatch.setattr("frostline.streams.own.IN_MEMORY", 100)
    stream = frostline.from_tasks([tuple(map(convert, pair)) for pair in pairs], scenario="task")
    assert isinstance(stream, TaskStream)
    assert [task.classes for task in stream.tasks] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    given = frostline.from_tasks(pairs, scenario="task")
    for a, b in zip(stream.tasks, given.tasks, strict=True):
        one, other = (next(iter(t.train.batches(1000))) for t in (a, b))
        torch.testing.assert_close(one.x, other.x)
        assert torch.equal(one.y, other.y)


def test_regression_and_bytes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 5)).astype(np.float64)
    stream = frostline.from_tasks([((x, x[:, 0]), (x, x[:, 0]))], objective="regression")
    assert next(iter(stream[0].train.batches(2))).x.dtype == torch.float32
    result = frostline.run(nn.Linear(5, 1), stream, epochs=40, lr=0.1, progress=False)
    assert result.loss.iloc[1, 0] < 0.01
    images = frostline.from_tasks(
        [((np.full((3, 4), 255, np.uint8), [0, 1, 0]), (np.zeros((3, 4), np.uint8), [0, 1, 0]))]
    )
    assert float(next(iter(images[0].train.batches(3))).x.max()) == 1.0


def test_a_bar_without_a_terminal(pairs, capfd):
    frostline.run(net(), pairs, epochs=1)
    assert "accuracy so far" in capfd.readouterr().err


def test_select_names_what_a_rule_would_thaw():
    model = net()
    scope = frostline.select(model, "last_k", (torch.rand(8, 64), torch.zeros(8, dtype=torch.long)))
    assert scope.names == {"3.weight", "3.bias", "1.weight", "1.bias"}
    with scope.thawed():
        assert model[1].weight.requires_grad
    half = frostline.select(model, "head", (torch.rand(8, 64), torch.zeros(8, dtype=torch.long)))
    assert half.names == {"3.weight", "3.bias"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"strategy": "replya"}, "Did you mean 'replay'"),
        ({"strategy": 3}, "expected a name or a Strategy"),
        ({"selector": "lastk"}, "Did you mean 'last_k'"),
        ({"epoch": 3}, "Did you mean 'epochs'"),
        ({"epochs": 0}, "nearest valid value is 1"),
        ({"optimizer": "sdg"}, "Did you mean 'sgd'"),
        ({"stream": "split_digit"}, "Did you mean 'split_digits'"),
        ({"stream": []}, "at least one"),
        ({"stream": [3]}, "expected a pair"),
        ({"stream": [(([[1.0]], [0, 1]), ([[1.0]], [0]))]}, "1 samples with 2 targets"),
        ({"stream": [((np.zeros((2, 3)), [0.5, 1.0]), (np.zeros((2, 3)), [0.5, 1.0]))]}, "objective='regression'"),
        ({"stream": [((np.zeros((2, 3)), [-1, 1]), (np.zeros((2, 3)), [0, 1]))]}, "expected 0 or more"),
        ({"model": nn.Linear(3, 4)}, r"cannot take samples of shape \[1, 8, 8\]"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 4))}, r"expected logits \[2, \.\.\., 10\]"),
    ],
)
def test_what_cannot_be_is_refused_before_training(changed, message, pairs):
    given = {"model": net(), "stream": pairs, "progress": False, **changed}
    with pytest.raises(frostline.UsageError, match=message):
        frostline.run(given.pop("model"), given.pop("stream"), **given)


def test_a_complete_run_does_not_run_again(make_run):
    from frostline.loop.training import run_stream

    run = make_run(epochs=1)
    run_stream(run)
    with pytest.raises(frostline.UsageError, match="is complete"):
        run_stream(run)


def test_public_names_are_there_and_import_without_torch():
    import subprocess
    import sys

    assert all(getattr(frostline, name) is not None for name in frostline.__all__)
    with pytest.raises(AttributeError, match="no attribute 'rnu'"):
        _ = frostline.rnu
    code = "import sys, frostline; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_trainers_settings_are_not_ignored(pairs):
    """Layout, fused updates and precision are those of the command line."""
    conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    result = frostline.run(
        conv, pairs, epochs=1, progress=False, channels_last="on", optimizer="adam", fused="on", lr=1e-3
    )
    assert result.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(frostline.UsageError, match="tf32"):
        frostline.run(conv, pairs, epochs=1, progress=False, precision="tf32")
    with pytest.raises(frostline.UsageError, match="has no fused kernel"):
        frostline.run(conv, pairs, epochs=1, progress=False, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), fused="on")


def test_a_wider_net_and_labels_in_a_column(pairs):
    """A net for ten classes where the stream has fewer so far; labels [N, 1] are one a sample."""
    few = [pairs[0], pairs[1]]
    column = [tuple((x, np.asarray(y)[:, None]) for x, y in pair) for pair in few]
    a, b = (frostline.run(net(), given, "replay", epochs=2, progress=False) for given in (few, column))
    assert a.accuracy.equals(b.accuracy)
    assert float(a.accuracy.max().max()) <= 1.0
    for strategy in ("finetune", "lwf", "der_pp"):
        assert frostline.run(net(), few, strategy, epochs=2, progress=False).accuracy.iloc[1, 0] > 0.8


def test_labels_of_another_shape_are_refused(pairs):
    hot = [tuple((x, np.eye(10, dtype=int)[np.asarray(y)]) for x, y in pair) for pair in pairs]
    with pytest.raises(frostline.UsageError, match=r"labels of shape \[\d+, 10\] look one-hot"):
        frostline.from_tasks(hot, scenario="domain", classes=10)
    several = [tuple((x, np.zeros((len(y), 10), dtype=int)) for x, y in pair) for pair in pairs]
    with pytest.raises(
        frostline.UsageError, match=r"logits \[2, 10\] for targets \[2, 10\]; expected .* one label a sample"
    ):
        frostline.run(net(), frostline.from_tasks(several, scenario="domain", classes=10), progress=False)


def test_what_the_user_froze_is_not_thawed_unasked(pairs):
    model = net()
    model[1].weight.requires_grad_(False)
    with pytest.raises(frostline.UsageError, match=r"1\.weight has requires_grad=False"):
        frostline.run(model, pairs, progress=False)
    with pytest.raises(frostline.UsageError, match=r"nn\.Module with parameters"):
        frostline.run("mlp", pairs, progress=False)


def test_the_rate_reaches_an_optimizer_that_is_a_class(pairs):
    runs = [
        frostline.run(net(), pairs, optimizer=torch.optim.Adam, lr=lr, epochs=1, progress=False) for lr in (1e-5, 0.05)
    ]
    assert not torch.equal(runs[0].model[1].weight, runs[1].model[1].weight)


class Named(nn.Module):
    """Attributes that other people call blocks, stages, head and hidden_units."""

    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.blocks = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.hidden_units, self.head = 16, nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stages(x)))


@pytest.mark.parametrize("strategy", ["partial", "continual_backprop"])
def test_attributes_of_the_same_name_are_not_ours(strategy, pairs):
    torch.manual_seed(0)
    result = frostline.run(Named(), pairs, strategy, epochs=5, optimizer="adam", lr=0.01, progress=False)
    assert result.accuracy.iloc[1, 0] > 0.5


def test_max_steps_are_no_saving():
    result = frostline.run(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        "split_digits",
        max_steps=2,
        epochs=5,
        batch_size=2000,
        progress=False,
    )
    assert result.content["full_finetuning"]["plain_flops_ratio"] == pytest.approx(1.0)


class BuiltInAnotherOrder(nn.Module):
    """A classifier that is built first, an auxiliary layer that is built last, a fused encoder in between."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(16, 10)
        encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False)
        self.embed = nn.Linear(8, 16)
        self.auxiliary = nn.Linear(16, 3)

    def forward(self, x):
        return self.classify(self.encoder(self.embed(x.view(-1, 8, 8))).mean(1))


def test_the_head_is_what_runs_last_and_depth_is_the_order_of_running():
    data = (torch.rand(8, 64), torch.zeros(8, dtype=torch.long))
    head = frostline.select(BuiltInAnotherOrder(), "head", data).names
    assert head == {"classify.weight", "classify.bias"}
    deepest = frostline.select(BuiltInAnotherOrder(), "last_k", data).names - head
    assert deepest == {f"encoder.layers.1.{layer}.{n}" for layer in ("linear2", "norm2") for n in ("weight", "bias")}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.answer = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x):
        return self.answer(self.read(x.view(-1, 8, 8))[0][:, -1])


def test_squared_gradients_of_a_recurrent_net():
    """torch has no rule for vmap over a GRU: an example after another, against autograd."""
    from frostline.core.importance import squared_gradients

    torch.manual_seed(0)
    model, x, y = Recurrent(), torch.rand(6, 64), torch.arange(6)
    stream = frostline.from_tasks([((x, y), (x, y))], scenario="domain")
    found = squared_gradients(model, stream[0], stream[0].train.batches(4))
    for name, p in model.named_parameters():
        grads = [
            torch.autograd.grad(nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), p)[0] for i in range(6)
        ]
        torch.testing.assert_close(found[name], torch.stack(grads).square().mean(0))


@pytest.mark.parametrize(
    ("strategy", "selector"), [("ewc", "everything"), ("finetune", "fisher"), ("finetune", "budget")]
)
def test_recurrent_nets_learn_with_all_that_asks_for_gradients(strategy, selector, pairs):
    frostline.run(Recurrent(), pairs, strategy, selector, epochs=1, progress=False)


def test_a_model_that_is_one_layer(pairs):
    model = nn.Linear(64, 10)
    flat = [tuple((np.reshape(x, (-1, 64)), y) for x, y in pair) for pair in pairs]
    frostline.run(model, flat, "ewc", epochs=1, progress=False)
    for selector, message in (
        ("lora", "matches no layer"),
        ("last_k", "Expected selector=head"),
        ("budget", "feasible"),
    ):
        with pytest.raises(frostline.UsageError, match=message):
            frostline.run(model, flat, selector=selector, epochs=1, progress=False)


def normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


def test_a_last_batch_of_one_sample_with_batch_norm_is_refused_before_training(pairs):
    few = [tuple((x[:33], y[:33]) for x, y in pair) for pair in pairs]
    with pytest.raises(frostline.UsageError, match="The nearest larger size that leaves no sample alone is 17"):
        frostline.run(normed(), few, epochs=1, batch_size=16, progress=False)
    frostline.run(normed(), few, epochs=1, batch_size=17, progress=False)
    first = [tuple((x[:32], y[:32]) for x, y in few[0]), *few[1:]]
    frostline.run(normed(), first, "replay", epochs=1, batch_size=16, progress=False)  # has company from memory


class Noisy(TensorDataset):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + torch.rand(()), y


def test_a_random_data_set_stays_random(pairs):
    sets = [tuple(Noisy(torch.as_tensor(x), torch.as_tensor(y)) for x, y in pair) for pair in pairs]
    stream = frostline.from_tasks(sets)
    first, second = (next(iter(stream[0].train.batches(8, torch.arange(8)))) for _ in range(2))
    assert not torch.equal(first.x, second.x)
    assert torch.equal(first.y, second.y)
    from frostline.models import mlp

    result = frostline.run(mlp((1, 8, 8), 10), stream, selector="last_k", epochs=2, progress=False)
    assert not any(note["used"] for note in result.content["prefix_cache"])  # a cache would freeze it


class Words(TensorDataset):
    def __getitem__(self, index):
        return torch.zeros(64), "cat"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stream": None}, "a pair for each task, not None"),
        ({"stream": "table"}, r"told its stream\.path"),
        ({"stream": "split_digits tasks=2"}, "Did you mean 'split_digits'"),
        ({"strategy": "replay,ewc"}, "Did you mean 'replay'"),
        ({"strategy": []}, "at least one"),
        ({"selector": 5}, "a name or a Selector, not 5"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"seed": -1}, "nearest valid value is 0"),
        ({"lr": 0}, "finite number > 0"),
        ({"device": "cpu"}, r"Expected model\.to\(device\)"),
        ({"stream": [(Words(torch.rand(3, 1)),) * 2]}, "'cat' is no number"),
        ({"stream": [(TensorDataset(torch.rand(0, 64)),) * 2]}, "has no samples"),
        ({"stream": [((np.full((2, 64), np.nan), [0, 1]),) * 2]}, "2 samples hold NaN"),
        ({"stream": [((np.zeros((2, 64)), [0, 10**9]),) * 2]}, "classes=, if that is meant"),
        (
            {"stream": [((np.zeros((2, 64)), [0, 1]), (np.zeros((2, 64)), [0, 5]))]},
            "the class 5, which nothing teaches",
        ),
        ({"stream": [((np.zeros((2, 64)), np.eye(2)),) * 2]}, "look one-hot"),
        ({"stream": [((np.zeros((2, 64)), np.eye(2, dtype=int)),) * 2]}, "look one-hot"),
        ({"strategy": "packnet"}, r"from_tasks\(\.\.\., scenario='task'\)"),
    ],
)
def test_what_strangers_typed_is_refused(changed, message, pairs):
    given = {"stream": pairs, "progress": False, **changed}
    with pytest.raises(frostline.UsageError, match=message):
        frostline.run(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), given.pop("stream"), **given)


def test_tasks_may_come_from_a_generator_and_a_file_is_no_folder(pairs, tmp_path):
    result = frostline.run(net(), (pair for pair in pairs), epochs=1, progress=False)
    (tmp_path / "file").touch()
    with pytest.raises(frostline.UsageError, match="is a file"):
        result.save(tmp_path / "file")


class Moody(nn.Module):
    """A net that asks tensors for their values, as stochastic depth does."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.answer = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        hidden = self.first(x.flatten(1)).relu()
        if hidden.mean().item() > 0:
            hidden = self.second(hidden).relu()
        return self.answer(hidden)


@pytest.mark.parametrize("selector", ["everything", "last_k", "budget"])
def test_a_net_that_asks_for_values_is_priced_with_some(selector, pairs):
    from frostline.costs import StepCosts

    model, x = Moody(), torch.rand(4, 64)
    before = {name: p.clone() for name, p in model.named_parameters()}
    assert StepCosts.trace(model, x).forward == 2 * 4 * (64 * 16 + 16 * 16 + 16 * 10)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    frostline.run(model, pairs, selector=selector, epochs=1, progress=False)


def frames(pairs, columns=None):
    import pandas

    def frame(x):
        made = pandas.DataFrame(np.reshape(x, (-1, 64)), columns=[f"pixel {i}" for i in range(64)])
        return made if columns is None else made[[made.columns[i] for i in columns]]

    return [((frame(a), pandas.Series(b)), (frame(c), d)) for (a, b), (c, d) in pairs]


def test_data_frames_go_by_the_names_of_their_columns(pairs):
    straight, turned = frames(pairs), frames(pairs, range(63, -1, -1))
    mixed = [(train, test) for (train, _), (_, test) in zip(straight, turned, strict=True)]
    a, b = (frostline.run(net(), given, epochs=1, progress=False) for given in (straight, mixed))
    assert a.accuracy.equals(b.accuracy)
    scope = frostline.select(nn.Linear(64, 10), "head", straight[0][0])
    assert scope.names == {"weight", "bias"}
    fewer = [(train, frames(pairs, range(60))[0][1]) for train, _ in straight]
    with pytest.raises(frostline.UsageError, match="'pixel 60' is not in all data frames"):
        frostline.from_tasks(fewer)
    with pytest.raises(frostline.UsageError, match=r"streams\.from_table takes a frame"):
        frostline.from_tasks([(straight[0][0][0], straight[0][1][0])])
    words = straight[0][0][0].astype(object).assign(**{"pixel 3": "a"})
    with pytest.raises(frostline.UsageError, match="column 'pixel"):
        frostline.from_tasks([((words, straight[0][0][1]), straight[0][1])])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 1.5}, "epochs=1.5: expected a whole number"),
        ({"batch_size": 2.5}, "batch_size=2.5: expected a whole number"),
        ({"seed": 1.5}, "seed=1.5: expected a whole number"),
        ({"seeds": [0, 1]}, "call run once for each seed"),
        ({"learning_rate": 0.1}, "there is no such setting"),
        ({"num_epochs": 3}, "Did you mean 'epochs'"),
    ],
)
def test_numbers_and_words_of_other_frameworks(changed, message, pairs):
    with pytest.raises(frostline.UsageError, match=message):
        frostline.run(net(), pairs, progress=False, **changed)


def test_names_of_tasks_are_different_and_as_many(pairs):
    for names in (["a", "b"], ["a", "b", "c", "d", "a"]):
        with pytest.raises(frostline.UsageError, match="a different one for each"):
            frostline.from_tasks(pairs, names=names)
    assert "5 tasks, class-incremental, 500 samples" in repr(frostline.from_tasks(pairs))


def test_samples_that_a_net_cannot_take_are_explained():
    tokens = [((torch.zeros(4, 64, dtype=torch.long), [0, 1, 0, 1]),) * 2]
    with pytest.raises(frostline.UsageError, match="Token ids want a language model"):
        frostline.run(nn.Linear(64, 10), tokens, progress=False)
    with pytest.raises(frostline.UsageError, match=r"model\.float\(\)"):
        frostline.run(nn.Linear(64, 10).double(), [((torch.zeros(4, 64), [0, 1, 0, 1]),) * 2], progress=False)


def test_what_a_net_grows_later_comes_last():
    from frostline.core.structure import head, layers

    model = BuiltInAnotherOrder()
    frostline.select(model, "head", (torch.rand(8, 64), torch.zeros(8, dtype=torch.long)))
    model.grown = nn.Linear(16, 10)
    assert list(layers(model))[-1] == "grown"
    assert head(model) == {"grown.weight", "grown.bias"}
