"""Compiled steps against plain ones."""

import functools
from functools import partial

import pytest
import torch

from frostline.core.checks import UsageError
from frostline.loop.training import run_stream
from frostline.models import cnn, mlp, slim_resnet18
from frostline.selectors import LastK
from frostline.speed import compiling
from frostline.strategies import Replay

small = partial(cnn, channels=[4], hidden=8)
narrow = partial(slim_resnet18, filters=2)
PLAIN = torch.compile


@pytest.fixture
def traced(monkeypatch):
    """Compile with the backend that runs torch's own operators: as good for what is asked here, without a C++ compiler."""
    monkeypatch.setattr(torch, "compile", functools.partial(PLAIN, backend="aot_eager"))


@pytest.mark.parametrize("model", [small, narrow], ids=["cnn", "batch-norm"])
def test_the_same_numbers_and_a_bill_for_compiling(model, make_run, digits, traced):
    runs = [make_run(Replay(capacity=20), model=model, epochs=1, compile=mode) for mode in ("off", "on")]
    for run in runs:
        run_stream(run)
    for a, b in zip(*(run.model.state_dict().values() for run in runs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    plain, compiled = ([row for row in run.meter.rows if row.phase == "train"] for run in runs)
    assert [(r.task, r.steps, r.samples, r.flops) for r in plain] == [
        (r.task, r.steps, r.samples, r.flops) for r in compiled
    ]
    assert all(row.seconds > 0 for row in runs[1].meter.rows if row.phase == "compile")
    assert sum(row.phase == "compile" for row in runs[1].meter.rows) == 5


def test_a_frozen_prefix_saves_when_compiled(make_run, traced):
    """Frozen after compiling, nothing may be saved (fault 3 of the oracles): the backward passes that run are counted."""
    backward = []
    for mode in ("off", "on"):
        run = make_run(selector=LastK(k=1, warmup_tasks=1), model=small, epochs=2, compile=mode)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            run_stream(run)
        backward.append(
            sum(event.count for event in profile.key_averages() if event.key == "aten::convolution_backward")
        )
    steps = next(row.steps for row in run.meter.rows if row.phase == "train")
    assert steps < backward[0] < 2 * steps  # the first task's steps and their probes, none of the four tasks after it
    assert (
        backward[1] < backward[0] + steps
    )  # and those that the compiler traced; a task that saved nothing has `steps` more


def test_auto_waits_for_a_long_run_and_leaves_alone_what_does_not_gain(make_run, traced, monkeypatch):
    def phases(model):
        run = make_run(model=model, epochs=1, compile="auto")
        run_stream(run)
        return {row.phase for row in run.meter.rows}

    assert "compile" not in phases(narrow)
    monkeypatch.setattr(compiling, "COLD_SECONDS", 0.0)
    assert "compile" in phases(narrow)
    assert "compile" not in phases(small)  # max-pooling
    assert "compile" not in phases(partial(mlp, hidden=[8]))
    monkeypatch.setattr(compiling, "WIDE", 16)  # as many as this net's widest convolutions have
    assert "compile" not in phases(narrow)


def test_what_cannot_be_compiled(make_run, monkeypatch, capsys):
    def broken(model, **_):
        def fail(*args):
            raise RuntimeError("no C++ compiler here")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UsageError, match=r"trainer.compile=on.*no C\+\+ compiler here.*trainer.compile=off"):
        run_stream(make_run(model=small, epochs=1, compile="on"))
    monkeypatch.setattr(compiling, "COLD_SECONDS", 0.0)
    runs = [make_run(Replay(capacity=20), model=narrow, epochs=1, compile=mode) for mode in ("off", "auto")]
    for run in runs:
        run_stream(run)
    for a, b in zip(*(run.model.parameters() for run in runs), strict=True):
        assert torch.equal(a, b)  # what was tried left no trace
    assert capsys.readouterr().out.count("training goes on without it") == 1
