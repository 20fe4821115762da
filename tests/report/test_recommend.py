"""What to take, how surely, and the honest answer where nothing does."""

import numpy as np
import pytest
from scipy import stats

from frostline.core.checks import UsageError
from frostline.report.groups import group_runs
from frostline.report.recommend import Bound, advice, choices
from tests.report.test_page import content, several

BOUNDS = [Bound("of_full", 0.7), Bound("forgetting", 0.15)]


def told(runs, bounds, prefer="accuracy", cost="of_full"):
    every = choices(group_runs(runs), bounds, prefer, cost)
    within = [c for c in every if all(b.kept(m) for b, m in zip(bounds, c.means, strict=True))]
    return list(advice(every, within, bounds, prefer, cost))


def test_the_best_within_the_bounds_and_its_neighbours():
    first, better = told(several(), BOUNDS)
    assert first == (
        "Take partial LastK k=1: accuracy 0.797 at of full 0.4; it keeps of full <= 0.7 and forgetting <= 0.15 with a "
        "certainty of 1, 6 seeds."
    )
    assert better == "Next better: replay, accuracy +0.005 at 3.75 times the cost, but it breaks of full <= 0.7 (1.5)."


def test_what_is_cheaper_and_worse():
    texts = told(several(), [Bound("of_full", 2.0)])
    assert texts[0].startswith("Take replay: accuracy 0.802 at of full 1.5")
    assert texts[1] == "Next cheaper: partial LastK k=1, accuracy -0.005 at 0.27 times the cost."
    assert len(texts) == 2


def test_nothing_does():
    none, nearest = told(several(), [Bound("of_full", 0.3), Bound("accuracy", 0.7, above=True)])
    assert none == "None of 4 configurations keeps of full <= 0.3 and accuracy >= 0.7."
    assert nearest == "Nearest is partial LastK k=1, which misses of full <= 0.3 (it has 0.4)."


def test_certainty_is_the_t_tests():
    values = [0.04, 0.05, 0.03, 0.06]
    p = stats.ttest_1samp(values, 0.055, alternative="less").pvalue
    assert Bound("forgetting", 0.055).certainty(values) == pytest.approx(1 - p)
    p = stats.ttest_1samp(values, 0.03, alternative="greater").pvalue
    assert Bound("accuracy", 0.03, above=True).certainty(values) == pytest.approx(1 - p)
    assert np.isnan(Bound("forgetting", 0.05).certainty([0.04]))
    assert Bound("of_full", 0.5).certainty([0.4, 0.4]) == 1
    assert Bound("of_full", 0.3).certainty([0.4, 0.4]) == 0


def test_one_seed_joint_and_columns_that_nobody_has():
    runs = [content("finetune", 0, 0.5), content("joint", 0, 0.9, flops=1.0)]
    (text, *_) = told(runs, BOUNDS)
    assert text.startswith("Take finetune")
    assert "of one seed, so how surely it keeps its bounds is not known" in text
    with pytest.raises(UsageError, match="says its usd"):
        told(runs, [Bound("usd", 1.0)])
