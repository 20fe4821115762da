"""Intervals and tests are scipy's and statsmodels' own, on the same numbers."""

import numpy as np
import pytest
from scipy import stats
from scipy.stats import studentized_range
from statsmodels.stats.multitest import multipletests

from frostline.report.ranking import ranking
from frostline.report.statistics import difference, holm, no_worse, summarise

VALUES = [0.91, 0.88, 0.93, 0.90, 0.86, 0.95, 0.89]


def test_a_summary():
    found = summarise(VALUES)
    low, high = stats.t.interval(0.95, 6, np.mean(VALUES), stats.sem(VALUES))
    assert found.t == pytest.approx((low, high))
    own = stats.bootstrap((VALUES,), np.mean, n_resamples=9999, method="BCa", rng=np.random.default_rng(0))
    assert found.bca == (own.confidence_interval.low, own.confidence_interval.high)
    assert found.bca[0] < found.mean < found.bca[1]
    assert (found.count, found.mean, found.median) == (7, pytest.approx(np.mean(VALUES)), np.median(VALUES))
    assert found.iqm == pytest.approx(np.mean(sorted(VALUES)[1:-1]))
    assert np.isnan(summarise([0.5]).t).all()
    assert np.isnan(summarise([0.5]).bca).all()
    assert summarise([0.5, 0.5]).bca == (0.5, 0.5)


def test_of_few_pairs_all_arrangements_are_looked_at():
    a, b = np.array(VALUES), np.array(VALUES) - [0.02, 0.03, 0.01, 0.02, -0.01, 0.04, 0.02]
    found = difference(a, b)
    d = a - b
    signs = np.array(np.meshgrid(*[[-1, 1]] * 7)).reshape(7, -1).T
    assert found.p == pytest.approx((abs((signs * d).mean(1)) >= abs(d.mean()) - 1e-12).mean())
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((d.mean(), low, high))
    assert found.effect == pytest.approx(d.mean() / d.std(ddof=1))
    assert found.least_p == 2 / 2**7


def test_the_same_numbers_do_not_differ():
    found = difference(VALUES, VALUES)
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert difference([0.5], [0.4]).p == 1


def test_holm_and_the_margin():
    p = [0.01, 0.04, 0.03, 0.2]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([]) == []
    a, b = np.array(VALUES), np.array(VALUES) + np.array([0.002, 0.004, -0.001, 0.003, 0.0, 0.005, 0.001])
    assert no_worse(a, b, 0.01) == pytest.approx(stats.ttest_1samp(a - b, -0.01, alternative="greater").pvalue)
    assert no_worse(a, b, 0.01) < 0.05
    assert no_worse(a, b, 0.001) > 0.05
    assert no_worse(a, a, 0.01) == 0
    assert no_worse(a - 1, a, 0.01) == 1
    assert np.isnan(no_worse([0.5], [0.5], 0.01))


def test_ranks_over_streams():
    rng = np.random.default_rng(0)
    scores = rng.random((8, 4)) + np.array([0.0, 0.1, 0.5, 0.9])
    found = ranking(["a", "b", "c", "d"], scores)
    ranks = np.array([stats.rankdata(-row) for row in scores])
    assert found.ranks == pytest.approx(ranks.mean(0))
    assert found.friedman == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    q = abs(found.ranks[0] - found.ranks[3]) / np.sqrt(4 * 5 / (6 * 8)) * np.sqrt(2)
    assert found.pairs[0, 3] == pytest.approx(studentized_range.sf(q, 4, np.inf), rel=1e-3)
