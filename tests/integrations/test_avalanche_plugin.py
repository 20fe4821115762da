"""Our selectors, methods and bill in Avalanche's loop: the same weights as in ours, and what it costs."""

import copy
import json
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from frostline.core import metrics
from frostline.core.checks import UsageError
from frostline.core.rng import generator
from frostline.loop.training import run_stream
from frostline.models import mlp
from frostline.selectors import Pattern
from frostline.strategies import EWC, SI, Finetune, LwF, Replay
from frostline.streams import from_arrays

warnings.simplefilter("ignore")
from frostline.integrations.avalanche import FrostlinePlugin  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
LR = 0.05
small = partial(mlp, hidden=[12])


@pytest.fixture(scope="module")
def stream():
    return from_arrays("digits", scenario="domain", kind="permuted", tasks=3, samples_per_class=6)


def benchmark_of(stream):
    """Return the stream as a benchmark whose batches come in our order."""
    from avalanche.benchmarks import tensors_benchmark

    learned, tested = [], []
    for task in stream.tasks:
        order = torch.randperm(len(task.train), generator=generator(0, "order", task.index, 0))
        (batch,) = task.train.batches(len(order), order)
        (test,) = task.test.batches(len(task.test))
        learned.append((batch.x, batch.y))
        tested.append((test.x, test.y))
    return tensors_benchmark(
        train_tensors=learned, test_tensors=tested, task_labels=[0] * len(stream), complete_test_set_only=False
    )


def strategy_for(net, plugins, batch_size=20, **settings):
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.templates import SupervisedTemplate

    return SupervisedTemplate(
        model=net, optimizer=torch.optim.SGD(net.parameters(), lr=LR), criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch_size, eval_mb_size=128, train_epochs=1, plugins=list(plugins),
        evaluator=EvaluationPlugin(loggers=[]), **settings,
    )  # fmt: skip


def learned_there(stream, net, plugin, **settings):
    benchmark, strategy = benchmark_of(stream), strategy_for(net, [plugin], **settings)
    strategy.eval(benchmark.test_stream)
    for experience in benchmark.train_stream:
        strategy.train(experience, shuffle=False)
        strategy.eval(benchmark.test_stream)
    return strategy


def apart(net, other):
    pairs = zip(net.parameters(), other.parameters(), strict=True)
    return max(float((p.detach() - q.detach()).abs().max()) for p, q in pairs)


@pytest.mark.parametrize(
    "make",
    [
        Finetune,
        partial(EWC, strength=50.0, labels="empirical", samples=None),
        partial(SI, strength=5.0),
        partial(LwF, strength=2.0),
        partial(Replay, capacity=300, batch_size=300),  # holds everything, draws everything: nothing is random
    ],
)
def test_the_same_weights_and_operations_as_in_our_loop(make, make_run, stream):
    rule = Pattern(include=["layer1"])
    run = make_run(
        make(), stream=stream, model=small, epochs=1, batch_size=20, optimizer=partial(torch.optim.SGD, lr=LR), selector=rule,
        prefix_cache="off",
    )  # fmt: skip
    net = copy.deepcopy(run.model)
    start = copy.deepcopy(net)
    names = [name for name, _ in net.named_parameters()]
    run_stream(run)
    plugin = FrostlinePlugin(Pattern(include=["layer1"]), make())
    learned_there(stream, net, plugin)
    assert apart(run.model, start) > 0.01
    assert apart(run.model, net) < 2e-6
    assert plugin.trained == [[name for name in sorted(names) if "layer1" in name]] * 3
    there = {(r["task"], r["phase"]): r for r in plugin.ledger}
    ours = {(r.task, r.phase): r for r in run.meter.rows}
    for task in range(3):
        for phase in ("train", "consolidate"):
            assert there[task, phase]["flops"] == ours[task, phase].flops
            assert there[task, phase]["samples"] == ours[task, phase].samples
        assert there[task, "train"]["steps"] == ours[task, "train"].steps
    assert all(p.requires_grad for p in net.parameters())


def test_the_matrix_is_ours_and_the_result_is_written(make_run, stream, tmp_path):
    run = make_run(
        Finetune(), stream=stream, model=small, epochs=1, batch_size=20, optimizer=partial(torch.optim.SGD, lr=LR)
    )
    net = copy.deepcopy(run.model)
    run_stream(run)
    plugin = FrostlinePlugin()
    learned_there(stream, net, plugin)
    ours, theirs = (metrics.matrix(rows) for rows in (run.progress.accuracy, plugin.matrix))
    seen = ~np.isnan(ours)
    assert theirs.shape == (4, 3)
    assert np.allclose(ours[seen], theirs[seen], atol=1e-6)
    assert plugin.metrics["forgetting"] == pytest.approx(float(metrics.forgetting(ours)))
    plugin.save(tmp_path / "result.json")
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["metrics"]["average_accuracy"] == pytest.approx(float(metrics.average_accuracy(ours)))
    evaluated = [row for row in found["ledger"] if row["phase"] == "evaluate"]
    assert [row["task"] for row in evaluated] == [None, 0, 1, 2]
    assert all(row["flops"] > 0 for row in evaluated)


def test_evaluations_in_the_middle_are_charged_and_the_last_of_them_is_the_row(make_run, stream):
    net = make_run(Finetune(), stream=stream, model=small).model
    plugin = FrostlinePlugin()
    benchmark = benchmark_of(stream)
    strategy = strategy_for(net, [plugin], eval_every=1)
    strategy.train(benchmark.train_stream[0], eval_streams=[benchmark.test_stream])
    assert len(plugin.matrix) == 2  # before the first epoch, and after the last
    final = strategy.eval(benchmark.test_stream)
    assert final is not None
    assert len(plugin.matrix) == 2
    assert [row["task"] for row in plugin.ledger if row["phase"] == "evaluate"] == [None, 0]
    assert {row["phase"] for row in plugin.ledger} == {"select", "train", "evaluate", "consolidate"}


def test_validation_streams_make_no_row(make_run, stream):
    from avalanche.benchmarks.scenarios import benchmark_with_validation_stream

    net = make_run(Finetune(), stream=stream, model=small).model
    plugin = FrostlinePlugin()
    benchmark = benchmark_with_validation_stream(benchmark_of(stream), 0.3)
    strategy = strategy_for(net, [plugin])
    strategy.train(benchmark.train_stream[0])
    strategy.eval(benchmark.test_stream)
    row = list(plugin.matrix[-1])
    strategy.eval(benchmark.valid_stream)
    assert plugin.matrix[-1] == row


def test_online_streams_are_refused(make_run, stream):
    from avalanche.benchmarks.scenarios.online import split_online_stream

    net = make_run(Finetune(), stream=stream, model=small).model
    strategy = strategy_for(net, [FrostlinePlugin()])
    pieces = split_online_stream(benchmark_of(stream).train_stream, experience_size=20)
    with pytest.raises(UsageError, match="hands an experience out in pieces"):
        strategy.train(next(iter(pieces)))


def test_beside_a_replay_of_avalanches_its_larger_batches_are_on_the_bill(make_run, stream):
    from avalanche.training.plugins import ReplayPlugin

    net = make_run(Finetune(), stream=stream, model=small).model
    plugin, benchmark = FrostlinePlugin(), benchmark_of(stream)
    strategy = strategy_for(net, [ReplayPlugin(mem_size=100), plugin])
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience)
    first, second = (row for row in plugin.ledger if row["phase"] == "train")
    assert second["samples"] > 1.5 * first["samples"]
    assert second["flops"] > 1.5 * first["flops"]


def test_what_an_error_ended_is_put_back(make_run, stream):
    net = make_run(Finetune(), stream=stream, model=small).model
    plugin, benchmark = FrostlinePlugin(Pattern(include=["layer1"])), benchmark_of(stream)
    strategy = strategy_for(net, [plugin])
    criterion = strategy._criterion
    strategy._criterion = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        strategy.train(benchmark.train_stream[0])
    strategy._criterion = criterion
    strategy.train(benchmark.train_stream[0])
    assert len(plugin.trained) == 1
    assert "forward" not in vars(strategy)


def test_refusals(make_run, stream):
    from avalanche.models import SimpleMLP, as_multitask

    benchmark = benchmark_of(stream)

    def train(net, *plugins):
        strategy_for(net, plugins).train(benchmark.train_stream[0])

    fresh = lambda: make_run(Finetune(), stream=stream, model=small).model  # noqa: E731
    with pytest.raises(UsageError, match="two FrostlinePlugins"):
        train(fresh(), FrostlinePlugin(), FrostlinePlugin())
    net = fresh()
    train(net, FrostlinePlugin())
    with pytest.raises(UsageError, match="given twice"):
        train(net, FrostlinePlugin())
    with pytest.raises(UsageError, match="matches no parameter"):
        train(fresh(), FrostlinePlugin(Pattern(include=["attention"])))
    with pytest.raises(UsageError, match="belongs to the other loop"):
        FrostlinePlugin(strategy="icarl")
    with pytest.raises(UsageError, match="wants to know each sample's task"):
        train(as_multitask(SimpleMLP(input_size=64), "classifier"), FrostlinePlugin(strategy=EWC()))
