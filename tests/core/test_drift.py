"""Two samples of one distribution do not differ; those that do, do so where it is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from frostline.core.checks import UsageError
from frostline.core.drift import compare, look, moved, retrain_from
from frostline.core.objectives import IGNORED
from frostline.core.sources import TensorSource
from frostline.core.structure import block_modules
from frostline.core.types import Batch
from frostline.loop.training import run_stream
from frostline.models import cnn, decoder, mlp, vit
from frostline.models.classifier import Classifier
from frostline.selectors.drift import Drift
from frostline.strategies import Finetune
from frostline.streams import from_arrays, from_tasks


@pytest.fixture(scope="module")
def learned():
    """A net that knows half of the digits, and the other half of the same digits that it has never seen."""
    stream = from_arrays("digits", tasks=1, scenario="domain")
    (batch,) = stream[0].train.batches(2000)
    half = len(batch) // 2
    return stream[0], batch.rows(slice(0, half)), batch.rows(slice(half, None))


@pytest.fixture(scope="module")
def net(learned):
    task, known, _ = learned
    torch.manual_seed(0)
    model = mlp(shape=(1, 8, 8), classes=10, hidden=[32, 32])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(60):
        optimizer.zero_grad()
        task.objective.nll(model(known.x), known.y).mean().backward()
        optimizer.step()
    return model


def differences(net, task, old, new):
    return compare(look(net, task, [old]), look(net, task, [new]), task)


def test_nothing_differs_between_samples_of_one_distribution(learned, net):
    task, _, fresh = learned
    found = 0
    for seed in range(60):
        order = torch.randperm(len(fresh), generator=torch.Generator().manual_seed(seed))
        old, new = fresh.rows(order[:300]), fresh.rows(order[300:600])
        found += bool(moved(differences(net, task, old, new), alpha=0.05, at_least=0.0))
    assert found <= 6  # 3 are expected of 60 at most


@pytest.mark.parametrize("count", [1, 2, 10])
def test_nor_where_there_are_few(count):
    task = from_arrays("digits", tasks=1, scenario="domain")[0]
    rng, found = np.random.default_rng(0), 0
    for _ in range(40):
        old, new = {"x": rng.normal(size=(80, 64))}, {"x": rng.normal(size=(count, 64))}
        found += bool(moved(compare(old, new, task), 0.01, 0.15))
    assert found <= 3


def test_features_that_are_no_numbers_are_refused():
    task = from_arrays("digits", tasks=1, scenario="domain")[0]
    fine, bad = np.zeros((30, 4)), np.full((30, 4), np.nan)
    with pytest.raises(UsageError, match="block1: values that are no numbers"):
        compare({"block1": fine}, {"block1": bad}, task)


def test_inputs_that_changed_are_seen_in_the_first_block(learned, net):
    task, _, fresh = learned
    noise = torch.randn(fresh.x.shape, generator=torch.Generator().manual_seed(1))
    blocks = block_modules(net)
    for strength, seen in ((0.7, False), (2.5, True)):
        names = moved(differences(net, task, fresh, replace(fresh, x=fresh.x + strength * noise)), 0.01, 0.15)
        assert {"inputs", "loss"} <= set(names)
        assert "labels" not in names
        assert (blocks[0] in names) == seen  # the weak noise is too spread out for one direction to show it
        assert retrain_from(names, blocks) == 0


def test_labels_that_mean_something_else_are_seen_in_the_loss_alone(learned, net):
    task, _, fresh = learned
    half = len(fresh) // 2
    old, new = fresh.rows(slice(0, half)), fresh.rows(slice(half, None))
    other = replace(new, y=torch.where(new.y < 5, new.y + 5, new.y - 5))
    assert moved(differences(net, task, old, new), 0.01, 0.15) == []
    names = moved(differences(net, task, old, other), 0.01, 0.15)
    assert names == ["loss"]
    assert retrain_from(names, block_modules(net)) == 2  # the head


def test_a_change_within_the_net_is_seen_from_there_on(learned, net):
    """What no input shows: the second block's own weights are others, as if a cache had gone stale."""
    task, _, fresh = learned
    half = len(fresh) // 2
    old, new = fresh.rows(slice(0, half)), fresh.rows(slice(half, None))
    before = look(net, task, [old])
    kept = net.backbone.layer2[0].weight.detach().clone()
    with torch.no_grad():
        net.backbone.layer2[0].weight.mul_(1.8)
    names = moved(compare(before, look(net, task, [new]), task), 0.01, 0.15)
    with torch.no_grad():
        net.backbone.layer2[0].weight.copy_(kept)
    assert retrain_from(names, block_modules(net)) == 1


def test_one_column_is_scipys_test():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(200, 1)), rng.normal(0.5, size=(150, 1))
    task = from_arrays("digits", tasks=1, scenario="domain")[0]
    found = {
        d.name: d for d in compare({"x": old, "labels": np.zeros(4)}, {"x": new, "labels": np.r_[0, 1, 1, 1]}, task)
    }
    exact = stats.ks_2samp(old[:, 0], new[:, 0], method="asymp")
    assert found["x"][1:] == pytest.approx((exact.statistic, exact.pvalue))
    assert found["labels"].statistic == pytest.approx(0.75)
    assert found["labels"].p == pytest.approx(stats.chi2_contingency([[4, 0], [1, 3]]).pvalue)


def chosen(run):
    """Return the parameters that trained in the last task."""
    return [row.trainable_parameters for row in run.meter.rows if row.phase == "train"]


def test_the_selector_thaws_as_deep_as_the_data_moved(make_run):
    everything = sum(p.numel() for p in make_run(Finetune()).model.parameters())
    turned = make_run(
        Finetune(),
        stream=from_arrays("digits", kind="rotated", scenario="domain", tasks=2),
        selector=Drift(warmup_tasks=1),
    )
    same = make_run(Finetune(), stream=from_arrays("digits", arrival="chunks", tasks=2), selector=Drift(warmup_tasks=1))
    for run in (turned, same):
        run_stream(run)
    head = sum(p.numel() for n, p in same.model.named_parameters() if n.startswith("head"))
    assert chosen(turned) == [everything, everything]
    assert chosen(same) == [everything, head]
    (row,) = [row for row in same.meter.rows if (row.task, row.phase) == (1, "select")]
    assert row.flops > 0
    (train,) = [row for row in same.meter.rows if (row.task, row.phase) == (1, "train")]
    assert train.stored_bytes > 500 * 64 * 4


def test_what_the_selector_remembers_survives(make_run):
    run = make_run(Finetune(), stream=from_arrays("digits", arrival="chunks", tasks=2), selector=Drift(warmup_tasks=1))
    run_stream(run)
    fresh = Drift(warmup_tasks=1)
    fresh.load_state_dict(run.selector.state_dict())
    assert torch.equal(fresh.memory.all().x, run.selector.memory.all().x)
    assert isinstance(run.stream[0].train, TensorSource)


@pytest.mark.parametrize(
    ("model", "widths"),
    [
        (vit((3, 16, 16), 10, patch=4, width=24, depth=2, heads=2), [24, 24, 24]),  # 16 tokens
        (cnn((3, 16, 16), 10, channels=[5, 7], hidden=9), [5, 7, 9]),
    ],
)
def test_of_a_block_the_channels_are_looked_at_not_the_places(learned, model, widths):
    batch = Batch(
        torch.randn(2, 3, 16, 16), torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long), torch.arange(2)
    )
    seen = look(model, learned[0], [batch])
    assert [seen[name].shape for name in block_modules(model)] == [(2, width) for width in widths]


def test_channels_of_one_dimensional_signals_too(learned):
    model = Classifier(nn.Sequential(nn.Conv1d(4, 6, 3), nn.Conv1d(6, 8, 3), nn.Flatten()), features=128, classes=10)
    batch = Batch(
        torch.randn(2, 4, 20), torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long), torch.arange(2)
    )
    seen = look(model, learned[0], [batch])
    assert [seen[name].shape for name in block_modules(model)] == [(2, 6), (2, 8)]


def test_of_texts_the_loss_is_the_mean_over_tokens_that_count():
    model = decoder((6,), 11, width=16, depth=2, heads=2, kv_heads=1, hidden=16).eval()
    x, y = torch.randint(0, 11, (4, 6)), torch.randint(0, 11, (4, 6))
    y[1, 2:] = IGNORED
    batch = Batch(x, y, torch.zeros(4, dtype=torch.long), torch.arange(4))
    stream = from_tasks([((x, y), (x, y))], scenario="domain", classes=11)
    seen = look(model, stream[0], [batch])
    with torch.no_grad():
        wanted = torch.stack([F.cross_entropy(z, t, ignore_index=IGNORED) for z, t in zip(model(x), y, strict=True)])
    assert torch.from_numpy(seen["loss"][:, 0]).allclose(wanted, atol=1e-5)
    assert [seen[name].shape for name in block_modules(model)] == [(4, 16)] * 3
