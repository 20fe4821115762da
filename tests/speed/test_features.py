"""Evaluations start after what has not changed, and only what may not have changed is looked at."""

import pytest

from frostline.core.tensors import digest
from frostline.loop.training import run_stream
from frostline.selectors import Everything, LastK
from frostline.speed import features
from frostline.strategies import Finetune


@pytest.fixture
def digested(monkeypatch):
    """The sizes of what was digested for evaluations."""
    sizes = []

    def counting(tensors):
        sizes.append(sum(value.numel() for value in tensors.values()))
        return digest(tensors)

    monkeypatch.setattr(features, "digest", counting)
    return sizes


def test_weights_that_train_are_not_digested(make_run, digested):
    run = make_run(Finetune(), selector=Everything(), prefix_cache="auto")
    run_stream(run)
    assert sum(digested) == sum(
        p.numel() for stage in run.model.stages() for p in stage.parameters()
    )  # before training


def test_what_freezes_is_digested_as_it_does_and_at_each_evaluation(make_run, digested):
    run = make_run(Finetune(), selector=LastK(k=0, warmup_tasks=1), prefix_cache="auto")
    run_stream(run)
    whole = sum(p.numel() for stage in run.model.stages() for p in stage.parameters())
    assert sum(digested) == whole * (
        1 + 1 + 4
    )  # before training, as the second of five tasks begins, after it and the rest
    evaluated = [row.flops / row.samples for row in run.meter.rows if row.phase == "evaluate"]
    assert evaluated[2] > evaluated[5] == 2 * 32 * 10  # at first all is kept; at last only the head is run
