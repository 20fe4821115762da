"""Means and intervals over seeds, and whether two configurations differ, by scipy and statsmodels."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import stdtrit

LEVEL = 0.95
ALPHA = 1 - LEVEL
RESAMPLES = 9999  # of the bootstrap and, where there are more arrangements than that, of the permutation test
FEW = 5  # runs, below which that is said


@dataclass(frozen=True)
class Summary:
    """What a few values come to. The intervals are of the mean, at 95 %; NaN for a single value.

    iqm: interquartile mean, of the middle half (Agarwal et al. 2021, arXiv 2108.13264). t: Student's interval, which holds
    for few values too if they are near normal; bca: the bias-corrected and accelerated bootstrap's (Efron 1987), which takes
    no shape for granted but is too narrow for fewer than about ten values.
    """

    count: int
    mean: float
    median: float
    iqm: float
    t: tuple[float, float]
    bca: tuple[float, float]


def summarise(values: Sequence[float]) -> Summary:
    """Return the summary of some values."""
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    half = half_width(x)
    return Summary(
        len(x),
        mean,
        float(np.median(x)),
        float(stats.trim_mean(x, 0.25)),
        (mean - half, mean + half),
        bca_interval(x),
    )


def half_width(values: Sequence[float] | np.ndarray) -> float:
    """Return half the width of Student's 95 % interval of the mean; NaN for a single value."""
    if len(values) < 2:
        return np.nan
    return float(stdtrit(len(values) - 1, (1 + LEVEL) / 2) * np.std(values, ddof=1) / np.sqrt(len(values)))


def bca_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the bootstrap's 95 % interval of the mean, the same at every call."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return np.nan, np.nan
    if np.ptp(x) == 0:
        return float(x[0]), float(x[0])
    interval = stats.bootstrap(
        (x,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Difference:
    """How a - b came out over pairs. p: of a difference this large by chance; holm: the same over all that was compared.

    effect: Cohen's d of pairs, mean over standard deviation of the differences; infinite where they are all alike.
    """

    count: int
    mean: float
    low: float
    high: float
    p: float
    effect: float
    holm: float = np.nan

    @property
    def least_p(self) -> float:
        """The smallest p that so many pairs can come to."""
        return 2.0 ** (1 - self.count)


def difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Return the mean of a - b with Student's interval, and p of the permutation test that swaps within pairs."""
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    mean, half = float(d.mean()), half_width(d)
    spread = float(d.std(ddof=1)) if len(d) > 1 else np.nan
    if not d.any():
        return Difference(len(d), 0.0, 0.0, 0.0, 1.0, 0.0)
    with np.errstate(divide="ignore"):
        effect = float(np.float64(mean) / spread) if len(d) > 1 else np.nan
    p = 1.0 if len(d) < 2 else float(_permuted(d))
    return Difference(len(d), mean, mean - half, mean + half, p, effect)


def _permuted(d: np.ndarray) -> float:
    test: Any = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=np.random.default_rng(0)
    )
    return test.pvalue


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    found: Any = multipletests(p, method="holm") if len(p) else [None, []]
    return [float(value) for value in found[1]]


def no_worse(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, margin: float) -> float:
    """Return p of the one-sided paired t-test of 'a falls short of b by `margin` or more'; NaN for a single pair."""
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if len(d) < 2:
        return np.nan
    if np.ptp(d) < 1e-12:
        return 0.0 if d[0] > -margin else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        test: Any = stats.ttest_1samp(d, -margin, alternative="greater")
    return float(test.pvalue)
