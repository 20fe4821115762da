"""trainer.precision: products of fewer bits, weights of 32."""

import copy
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from frostline.core.checks import UsageError
from frostline.core.rng import generator
from frostline.loop.lesson import Lesson
from frostline.loop.precision import set_precision, slow_here
from frostline.loop.training import learn, run_stream
from frostline.models import cnn, mlp, slim_resnet18
from frostline.selectors import LastK
from frostline.strategies import EWC, Replay

NETS = {
    "mlp": partial(mlp, hidden=[32, 32]),
    "cnn": partial(cnn, channels=[4], hidden=16),
    "batch-norm": partial(slim_resnet18, filters=2),
}


@pytest.mark.parametrize("net", NETS)
def test_bfloat16_is_torchs_autocast(net, make_run, digits):
    """Against a loop by hand: the same weights bit for bit, and they stay float32."""
    run = make_run(model=NETS[net], epochs=1, precision="bfloat16")
    model, task = copy.deepcopy(run.model), digits[0]
    learn([Lesson(run, task)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    order = torch.randperm(len(task.train), generator=generator(0, "order", 0, 0))
    for batch in task.train.batches(32, order):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = task.logits(model, batch)
        F.cross_entropy(logits.float(), batch.y).backward()
        optimizer.step()
    assert logits.dtype == torch.bfloat16
    for a, b in zip(run.model.parameters(), model.parameters(), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_the_bill_of_bfloat16_has_the_same_operations(make_run):
    bills = []
    for precision in ("float32", "bfloat16"):
        run = make_run(Replay(capacity=50), precision=precision)
        run_stream(run)
        bills.append([(r.task, r.phase, r.steps, r.samples, r.flops) for r in run.meter.rows])
    assert bills[0] == bills[1]


def test_a_cached_prefix_is_the_same_in_bfloat16(make_run):
    runs = [
        make_run(selector=LastK(k=1), model=NETS["cnn"], precision="bfloat16", prefix_cache=cache)
        for cache in ("off", "on")
    ]
    for run in runs:
        run_stream(run)
    assert runs[1].backend.notes[0]["used"]
    assert runs[0].progress.accuracy == runs[1].progress.accuracy
    for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_several_seeds_at_once_in_bfloat16(make_run):
    alone, together = ([make_run(EWC(), seed=s, precision="bfloat16") for s in (0, 1)] for _ in range(2))
    for run in alone:
        run_stream(run)
    for run in together:
        run.keep_draws()
    run_stream(*together)
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_tf32_is_refused_where_no_device_has_it():
    with pytest.raises(UsageError, match=r"trainer.precision=tf32 on cpu.*bfloat16"):
        set_precision("tf32", torch.device("cpu"))
    with pytest.raises(UsageError, match="Did you mean 'float32'"):
        set_precision("float23", torch.device("cpu"))


@pytest.mark.parametrize(("bits", "slow"), [({}, True), ({"amx_bf16": True}, False), ({"avx512_bf16": True}, False)])
def test_bfloat16_is_slow_where_it_is_imitated(bits, slow, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", **bits})
    assert slow_here("bfloat16", torch.device("cpu")) is slow
    assert not slow_here("float32", torch.device("cpu"))
    assert not slow_here("bfloat16", torch.device("cuda"))
