"""The same data, weights, order and settings in Avalanche 0.6 and here: both walk the same way, or it shows who departs.

No shuffling there, and the data in our order; one epoch a task. What is random in a memory is taken out by a memory that
holds everything and a draw of all of it; where that cannot be, the loss of a step is compared instead.
"""

import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frostline.core.rng import generator
from frostline.core.torchvision_schemas import torchvision
from frostline.core.types import Batch
from frostline.loop.training import run_stream
from frostline.models import mlp
from frostline.strategies import AGEM, ERACE, EWC, GEM, MAS, SI, SLDA, DERpp, Finetune, GDumb, ICaRL, LwF, Replay
from frostline.streams import from_arrays
from tests.conftest import a_step

pytestmark = pytest.mark.filterwarnings("ignore")
LR = 0.05


@pytest.fixture(scope="module")
def avalanche():
    """Import it; it is slow to, and warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchvision()  # ours first: its operators may be missing in a build of torch without them
        return pytest.importorskip("avalanche")


@pytest.fixture(scope="module")
def stream():
    return from_arrays("digits", scenario="domain", kind="permuted", tasks=3, samples_per_class=6)


small = partial(mlp, hidden=[12])


def theirs(avalanche, stream, net, batch_size, tasks, plugins=(), template=None, **settings):
    """Train a copy of the net with a strategy of Avalanche's; return it, and the strategy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from avalanche.benchmarks import tensors_benchmark
        from avalanche.training.plugins import EvaluationPlugin
        from avalanche.training.templates import SupervisedTemplate
    net = copy.deepcopy(net)
    data = []
    for task in stream.tasks[:tasks]:
        order = torch.randperm(len(task.train), generator=generator(0, "order", task.index, 0))
        (batch,) = task.train.batches(len(order), order)
        data.append((batch.x, batch.y))
    benchmark = tensors_benchmark(
        train_tensors=data, test_tensors=data, task_labels=[0] * tasks, complete_test_set_only=False
    )
    strategy = (template or SupervisedTemplate)(
        model=net, optimizer=torch.optim.SGD(net.parameters(), lr=LR), criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch_size, train_epochs=1, plugins=list(plugins), evaluator=EvaluationPlugin(loggers=[]), **settings,
    )  # fmt: skip
    for experience in benchmark.train_stream:
        strategy.train(experience, shuffle=False)
    return net, strategy


def ours(make_run, stream, strategy, batch_size, tasks):
    """Return the net before and the run after learning the first tasks."""
    short = type(stream)(stream.name, stream.scenario, stream.tasks[:tasks], stream.classes, stream.shape)
    run = make_run(
        strategy, stream=short, model=small, epochs=1, batch_size=batch_size,
        optimizer=partial(torch.optim.SGD, lr=LR),
    )  # fmt: skip
    start = copy.deepcopy(run.model)
    run_stream(run)
    return start, run


def apart(net, other):
    """The largest distance of two weights."""
    pairs = zip(net.parameters(), other.parameters(), strict=True)
    return max(float((p.detach() - q.detach()).abs().max()) for p, q in pairs)


def test_fine_tuning(avalanche, make_run, stream):
    start, run = ours(make_run, stream, Finetune(), 8, 3)
    net, _ = theirs(avalanche, stream, start, 8, 3)
    assert apart(run.model, net) < 1e-5
    assert apart(run.model, start) > 0.02


def test_ewc_agrees_where_batches_are_single_samples(avalanche, make_run, stream):
    """Avalanche squares the gradient of a batch's mean, so only there; and has no factor 1/2."""
    from avalanche.training.plugins import EWCPlugin

    start, run = ours(make_run, stream, EWC(strength=6.0, labels="empirical", samples=None), 1, 3)
    net, strategy = theirs(avalanche, stream, start, 1, 3, [EWCPlugin(ewc_lambda=3.0)])
    plain, _ = theirs(avalanche, stream, start, 1, 3)
    assert apart(run.model, net) < 1e-4
    assert apart(plain, net) > 1e-2
    _, larger = theirs(avalanche, stream, start, 8, 1, [EWCPlugin(ewc_lambda=3.0)])
    sums = [sum(float(i.data.sum()) for i in s.plugins[0].importances[0].values()) for s in (strategy, larger)]
    assert sums[1] < 0.7 * sums[0]  # theirs shrinks with the batch size; the paper's is each example's own


def test_mas_agrees_where_batches_are_single_samples(avalanche, make_run, stream):
    """Theirs takes the absolute value of a batch's mean gradient; and fades old importance to a half, unlike the paper."""
    from avalanche.training.plugins import MASPlugin

    start, run = ours(make_run, stream, MAS(strength=2.0, samples=None), 1, 2)
    net, _ = theirs(avalanche, stream, start, 1, 2, [MASPlugin(lambda_reg=2.0)])
    plain, _ = theirs(avalanche, stream, start, 1, 2)
    assert apart(run.model, net) < 1e-4
    assert apart(plain, net) > 1e-2


def test_lwf(avalanche, make_run, stream):
    """Theirs leaves temperature^2 out, as the paper's formula does."""
    from avalanche.training.plugins import LwFPlugin

    start, run = ours(make_run, stream, LwF(strength=5.0, temperature=2.0, rescale=False), 8, 3)
    net, _ = theirs(avalanche, stream, start, 8, 3, [LwFPlugin(alpha=5.0, temperature=2.0)])
    plain, _ = theirs(avalanche, stream, start, 8, 3)
    assert apart(run.model, net) < 1e-5
    assert apart(plain, net) > 1e-3


def test_gem_with_a_memory_of_everything(avalanche, make_run, stream, monkeypatch):
    """Theirs asks the package quadprog, which need not be there: SciPy answers the same question here."""
    from avalanche.training.plugins import GEMPlugin, gem
    from scipy.optimize import minimize

    def solve(P, q, G, h, solver):
        found = minimize(
            lambda v: 0.5 * v @ P @ v + q @ v, np.ones(len(q)), jac=lambda v: P @ v + q, method="SLSQP",
            constraints={"type": "ineq", "fun": lambda v: h - G @ v, "jac": lambda v: -G}, options={"ftol": 1e-12},
        )  # fmt: skip
        return found.x

    monkeypatch.setattr(gem.qpsolvers, "solve_qp", solve)
    everything = len(stream[0].train)
    start, run = ours(make_run, stream, GEM(per_task=everything, margin=0.5), 8, 3)
    net, _ = theirs(avalanche, stream, start, 8, 3, [GEMPlugin(everything, memory_strength=0.5)])
    plain, _ = theirs(avalanche, stream, start, 8, 3)
    assert apart(plain, net) > 1e-2
    assert apart(run.model, net) < 2e-3  # they add 1e-3 to the diagonal of the program


def test_agem_with_a_draw_of_everything(avalanche, make_run, stream):
    from avalanche.training.plugins import AGEMPlugin

    everything = len(stream[0].train)
    start, run = ours(make_run, stream, AGEM(capacity=everything, batch_size=everything), 8, 2)
    net, _ = theirs(avalanche, stream, start, 8, 2, [AGEMPlugin(everything, sample_size=everything)])
    plain, _ = theirs(avalanche, stream, start, 8, 2)
    assert apart(plain, net) > 1e-3
    assert apart(run.model, net) < 1e-5


def test_si_on_a_cpu_is_fine_tuning_there(avalanche, make_run, stream):
    """Their path keeps views of weights that are on a CPU already, so each of its steps is from a weight to itself."""
    from avalanche.training.plugins import SynapticIntelligencePlugin

    start, _ = ours(make_run, stream, Finetune(), 8, 1)
    net, strategy = theirs(avalanche, stream, start, 8, 3, [SynapticIntelligencePlugin(si_lambda=1000.0)])
    plain, _ = theirs(avalanche, stream, start, 8, 3)
    assert all(float(data.data.abs().max()) == 0.0 for data in strategy.plugins[0].ewc_data[1].values())
    assert apart(plain, net) == 0.0


def test_si_agrees_once_the_weights_are_copied(avalanche, make_run, stream, monkeypatch):
    """With half their lambda, over two tasks: after that their path has the pull of the term in it, the paper's has not."""
    from avalanche.training.plugins import SynapticIntelligencePlugin

    plain_weights = SynapticIntelligencePlugin.extract_weights

    def copied(model, target, excluded):
        plain_weights(model, target, excluded)
        for name in target:
            target[name].data = target[name].data.clone()

    monkeypatch.setattr(SynapticIntelligencePlugin, "extract_weights", staticmethod(copied))
    start, run = ours(make_run, stream, SI(strength=2e4, damping=100.0, clip=False), 8, 2)
    net, strategy = theirs(avalanche, stream, start, 8, 2, [SynapticIntelligencePlugin(si_lambda=4e4, eps=100.0)])
    largest = max(float(data.data.max()) for data in strategy.plugins[0].ewc_data[1].values())
    assert largest < 1e-3, "theirs is cut at 0.001"
    plain, _ = theirs(avalanche, stream, start, 8, 2)
    assert apart(plain, net) > 1e-3
    assert apart(run.model, net) < 1e-5


def test_slda(avalanche, stream):
    """The running estimate, sample by sample, is ours batch by batch."""
    from avalanche.training import StreamingLDA

    width, rng = 8, torch.Generator().manual_seed(0)
    z, y = torch.randn(120, width, generator=rng), torch.randint(0, 5, (120,), generator=rng)
    z = z + y[:, None]
    net = nn.Sequential(nn.Identity())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = StreamingLDA(net, None, width, 5, shrinkage_param=1e-2, output_layer_name="0")
    own = SLDA(shrinkage=1e-2)
    for start in range(0, 120, 30):
        own.learn(z[start : start + 30], y[start : start + 30], 5)
        for f, label in zip(z[start : start + 30], y[start : start + 30], strict=True):
            other.fit(f[None], label[None])
    own.solve()
    queries = torch.randn(20, width, generator=rng)
    torch.testing.assert_close(own.classifier()(queries).detach(), other.predict(queries), rtol=1e-3, atol=1e-3)


def a_batch(y, replayed):
    rows = torch.arange(len(y))
    return Batch(torch.zeros(len(y), 1), y, rows * 0, rows, {"replayed": replayed})


def test_er_ace_is_twice_theirs(avalanche):
    """Theirs is the mean of the two terms, the paper's and ours their sum: half the learning rate there."""
    from avalanche.training.regularization import ACECriterion

    rng = torch.Generator().manual_seed(0)
    logits, y = torch.randn(12, 6, generator=rng), torch.randint(0, 6, (12,), generator=rng)
    replayed = torch.arange(12) >= 8
    found = ERACE().criterion(a_step(), a_batch(y, replayed), logits)
    other = ACECriterion()(logits[:8], y[:8], logits[8:], y[8:])
    assert float(found) == pytest.approx(2 * float(other), rel=1e-5)


def test_icarl_of_the_authors_code_is_theirs(avalanche, make_run, stream):
    """Their loss is the mean over all outputs; ours with reduction=mean is that, over those seen so far."""
    from avalanche.training.losses import ICaRLLossPlugin

    by_class = from_arrays("digits", scenario="class", samples_per_class=10)
    strategy, seen = ICaRL(capacity=20, reduction="mean"), []
    run = make_run(strategy, stream=by_class, epochs=1)
    criterion = strategy.criterion

    def watch(step, batch, logits):
        loss = criterion(step, batch, logits)
        if step.task.index == 2:
            plugin = ICaRLLossPlugin()
            with torch.no_grad():
                plugin.old_logits = step.teacher(batch, strategy.teacher)[:, :6]
            plugin.old_classes = [0, 1, 2, 3]
            seen.append((float(loss.detach()), float(plugin(step.raw.detach()[:, :6], batch.y))))
        return loss

    strategy.criterion = watch
    run_stream(run)
    assert seen
    assert all(a == pytest.approx(b, rel=1e-4) for a, b in seen)


def test_der_pp_is_theirs_with_two_draws_in_the_place_of_one(make_run):
    """Their DER takes both terms from the halves of one draw; the paper's have a draw each, and a mean over logits, as here."""
    by_class = from_arrays("digits", scenario="class", samples_per_class=10)
    strategy, seen = DERpp(capacity=50, alpha=0.3, beta=0.7), []
    run = make_run(strategy, stream=by_class, epochs=1)
    penalty = strategy.penalty

    def watch(step, batch, logits):
        found = penalty(step, batch, logits)
        if "der_pp" in batch.columns:
            rows = batch.columns["der_pp"] == 1
            theirs = 0.3 * F.mse_loss(step.raw[rows], batch.columns["answers"][rows])
            seen.append((float(found.detach()), float(theirs.detach())))
        return found

    strategy.penalty = watch
    run_stream(run)
    assert seen
    assert all(a == pytest.approx(b, rel=1e-5) for a, b in seen)


def test_gdumbs_memory_holds_as_many_of_each_class(avalanche, stream):
    """And theirs goes on from the last task's weights, where the paper and ours begin anew."""
    from avalanche.training.plugins import GDumbPlugin

    start = small(stream.shape, stream.classes)
    _, strategy = theirs(avalanche, stream, start, 8, 2, [GDumbPlugin(mem_size=40)])
    held = strategy.plugins[0].storage_policy.buffer
    counts = np.bincount([int(label) for label in held.targets], minlength=10)
    own = GDumb(capacity=40)
    for task in stream.tasks[:2]:
        own.parts(task)
    assert counts.tolist() == own.memory.all().y.bincount(minlength=10).tolist() == [4] * 10


def test_replay_draws_beside_the_batch_as_theirs_does(avalanche, make_run, stream):
    """Memory and draw hold everything of the first task, and a batch everything of the second."""
    from avalanche.training.plugins import ReplayPlugin
    from avalanche.training.storage_policy import ReservoirSamplingBuffer

    everything = len(stream[0].train)
    short = type(stream)(stream.name, stream.scenario, stream.tasks[:2], stream.classes, stream.shape)
    run = make_run(
        Replay(capacity=everything, batch_size=everything), stream=short, model=small, epochs=1, batch_size=everything,
        optimizer=partial(torch.optim.SGD, lr=LR),
    )  # fmt: skip
    start = copy.deepcopy(run.model)
    run_stream(run)
    net, _ = theirs(
        avalanche, short, start, everything, 2,
        [ReplayPlugin(everything, batch_size=everything, batch_size_mem=everything,
                      storage_policy=ReservoirSamplingBuffer(everything))],
    )  # fmt: skip
    assert apart(run.model, net) < 1e-5
