"""Rates by layer: those of the formula, by torch's own parameter groups, and refused where a pattern finds nothing."""

from functools import partial

import pytest
import torch

from frostline.core.structure import parts
from frostline.loop.training import run_stream
from frostline.selectors import LastK
from frostline.strategies import Chain, LayerRates, Replay
from frostline.streams.build import from_arrays
from tests.conftest import in_process


def test_weights_move_as_with_torchs_groups(make_run):
    """One step of SGD from the same weights: each block's change is that of plain fine-tuning times its factor."""
    stream = from_arrays("digits", scenario="domain", tasks=1, classes_per_task=10, samples_per_class=10)
    changes = []
    for strategy in (None, LayerRates(decay=0.5, factors={r"head\.bias": 3})):
        run = make_run(strategy, stream=stream, max_steps=1, optimizer=partial(torch.optim.SGD, lr=0.1))
        before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
        run_stream(run)
        changes.append({n: p.detach() - before[n] for n, p in run.model.named_parameters()})
    groups = parts(run.model)
    for place, group in enumerate(groups):
        for name in group:
            factor = 0.5 ** (len(groups) - 1 - place) * (3 if name == "head.bias" else 1)
            torch.testing.assert_close(changes[1][name], factor * changes[0][name], rtol=1e-3, atol=1e-7)


def test_without_decay_it_is_fine_tuning(make_run):
    plain, own = (make_run(s) for s in (None, LayerRates(decay=1.0)))
    for run in (plain, own):
        run_stream(run)
    assert plain.progress.accuracy == own.progress.accuracy


def test_it_composes_with_replay_and_a_selector(make_run):
    run = make_run(Chain([Replay(capacity=20), LayerRates(decay=0.5)]), LastK(k=1))
    before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    run_stream(run)
    assert not run.model.get_parameter("head.weight").equal(before["head.weight"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("strategy.layer_rates.decay=0", "strategy.layer_rates.decay=0"),
        ("+strategy.layer_rates.factors.nothing=2", "'nothing' is found in no parameter's name. There are "),
        ("+strategy.layer_rates.factors.head=-1", "strategy.layer_rates.factors.head=-1"),
    ],
)
def test_what_cannot_be_is_refused(setting, message, tmp_path):
    code, error = in_process("strategy=layer_rates", setting, "model=mlp", f"hydra.run.dir={tmp_path / 'run'}")
    assert code == 1
    assert message in error
