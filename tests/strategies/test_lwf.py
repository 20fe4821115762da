"""LwF's options against the losses of the papers, written by hand."""

import pytest
import torch
from torch.nn import functional as F

from frostline.core.checks import UsageError
from frostline.loop.training import run_stream
from frostline.strategies import LwF
from frostline.streams import from_arrays

T = 2.0


@pytest.mark.parametrize("among", ["old", "all"])
def test_the_term_of_a_class_incremental_stream(among, make_run):
    """Their code appends zeros to the old probabilities, so that new classes take part, and weights by tasks before."""
    stream = from_arrays("digits", scenario="class", samples_per_class=20, tasks=3, classes_per_task=2)
    seen = []

    class Watching(LwF):
        def penalty(self, step, batch, logits):
            term = super().penalty(step, batch, logits)
            if self.teacher:
                task, old = step.task.index, 2 * step.task.index
                before = step.teacher(batch, self.teacher)[:, :old]
                now = logits[:, : old + 2] if among == "all" else logits[:, :old]
                wanted = F.pad((before / T).softmax(1), (0, now.shape[1] - old))
                cross = -(wanted * (now / T).log_softmax(1)).sum(1).mean()
                entropy = -torch.special.entr((before / T).softmax(1)).sum(1).mean()
                seen.append((term.item(), task * T * T * (cross + entropy).item()))
            return term

    run_stream(make_run(Watching(each_task=True, among=among), stream=stream))
    assert len(seen) > 4
    for ours, by_hand in seen:
        assert ours == pytest.approx(by_hand, rel=1e-4, abs=1e-6)


def test_heads_of_their_own_count_alike_anyway(make_run, digits):
    runs = [make_run(LwF(each_task=flag), stream=digits) for flag in (False, True)]
    for run in runs:
        run_stream(run)
    assert runs[0].progress.accuracy == runs[1].progress.accuracy


def test_bad_among():
    with pytest.raises(UsageError, match="among"):
        LwF(among="new")
