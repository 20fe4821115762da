"""Metrics against hand calculations, Avalanche's where the two agree, and the faults that others have."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from frostline.core import metrics

nan = np.nan
# Three tasks; rows: untrained, after 1, after 2, after 3.
R = np.array([[0.1, 0.2, 0.3], [0.9, 0.4, nan], [0.95, 0.8, 0.35], [0.5, 0.6, 0.7]])
KNOWN = {
    "average_accuracy": (0.5 + 0.6 + 0.7) / 3,
    "average_incremental_accuracy": (0.9 + (0.95 + 0.8) / 2 + 0.6) / 3,
    "learning_accuracy": (0.9 + 0.8 + 0.7) / 3,
    "backward_transfer": ((0.5 - 0.9) + (0.6 - 0.8)) / 2,
    "forward_transfer": ((0.4 - 0.2) + (0.35 - 0.3)) / 2,
    "prequential_accuracy": (0.4 + 0.35) / 2,
    "forgetting": ((0.95 - 0.5) + (0.8 - 0.6)) / 2,
    "worst_case_accuracy": 0.7 / 3 + 2 / 3 * (0.5 + 0.6) / 2,
}


@pytest.mark.parametrize("name", KNOWN)
def test_by_hand(name):
    assert getattr(metrics, name)(R) == pytest.approx(KNOWN[name])


def test_intransigence_needs_a_reference():
    assert np.isnan(metrics.intransigence(R))
    assert metrics.intransigence(R, np.array([1.0, 0.9, 0.9])) == pytest.approx((0.1 + 0.1 + 0.2) / 3)


def test_leading_axes_equal_one_by_one():
    rng = np.random.default_rng(0)
    many = rng.random((2, 5, 6, 5))
    for name in KNOWN:
        together = getattr(metrics, name)(many)
        assert together.shape == (2, 5)
        assert together[1, 3] == pytest.approx(getattr(metrics, name)(many[1, 3]))


def test_forgetting_uses_the_best_earlier_row_not_the_first_nor_the_last():
    late_peak = np.array([[0.0, 0.0], [0.5, 0.0], [0.9, 0.9]])
    assert metrics.forgetting(late_peak) == pytest.approx(0.5 - 0.9)  # the last row is not among the candidates
    middle_peak = np.array([[0.0] * 3, [0.5, 0, 0], [0.9, 0.8, 0], [0.4, 0.8, 0.7]])
    assert metrics.forgetting(middle_peak) == pytest.approx((0.9 - 0.4) / 2)  # first minus last would say 0.05


def test_ten_tasks_of_mixed_digit_counts_stay_in_order():
    """200 classes in 10 tasks: keys like '100-119' sort before '20-39' where task names are sorted as strings."""
    T = 10
    matrix = np.full((T + 1, T), nan)
    matrix[0] = 0.005
    for i in range(1, T + 1):
        for j in range(i):
            matrix[i, j] = 0.9 - 0.01 * j - 0.02 * (i - 1 - j)
    expected = np.mean([0.02 * (T - 1 - j) for j in range(T - 1)])
    assert metrics.forgetting(matrix) == pytest.approx(expected)
    assert metrics.backward_transfer(matrix) == pytest.approx(-expected)


def test_forward_transfer_uses_the_untrained_model():
    shifted = R.copy()
    shifted[0] += 0.05
    assert metrics.forward_transfer(shifted) == pytest.approx(KNOWN["forward_transfer"] - 0.05)


def test_missing_cells_give_null_not_a_mean_over_the_rest():
    joint = np.full((4, 3), nan)
    joint[0], joint[3] = 0.1, 0.9
    values = metrics.all_metrics(joint)
    assert values["average_accuracy"] == pytest.approx(0.9)
    assert values["forgetting"] is None
    assert values["learning_accuracy"] is None


def test_unfinished_run_speaks_of_the_tasks_learned():
    partial = R.copy()
    partial[3] = nan
    values = metrics.all_metrics(partial)
    assert values["average_accuracy"] == pytest.approx((0.95 + 0.8) / 2)
    assert values["forgetting"] == pytest.approx(0.9 - 0.95)


def test_only_the_untrained_row():
    values = metrics.all_metrics(metrics.matrix([[0.1, 0.1], [None, None], [None, None]]))
    assert all(v is None for v in values.values())


def test_one_task():
    values = metrics.all_metrics(np.array([[0.1], [0.8]]))
    assert values["average_accuracy"] == values["worst_case_accuracy"] == 0.8
    assert values["forgetting"] is None


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="T\\+1, T"):
        metrics.average_accuracy(np.zeros((3, 3)))


def test_backward_transfer_equals_avalanche(avalanche):
    """Avalanche's BWT and its (first minus last) forgetting agree with ours where no row between is better."""
    bwt = avalanche.evaluation.metrics.BWT()
    matrix = np.array([[0.1] * 3, [0.9, 0, 0], [0.8, 0.85, 0], [0.6, 0.7, 0.95]])
    for j in range(2):
        bwt.update(j, matrix[j + 1, j], initial=True)
        bwt.update(j, matrix[3, j])
    theirs = np.mean([bwt.result_key(j) for j in range(2)])
    assert metrics.backward_transfer(matrix) == pytest.approx(theirs)
    assert metrics.forgetting(matrix) == pytest.approx(-theirs)


@pytest.fixture(scope="module")
def avalanche():
    from frostline.core.torchvision_schemas import torchvision

    torchvision()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import avalanche
        import avalanche.evaluation.metrics
    return avalanche


def slow_metrics(R):
    """Every metric once more, cell by cell as the papers write it, tasks counted from 1."""
    T = len(R) - 1

    def r(i, j):
        return R[i][j - 1]

    def mean(values):
        values = list(values)
        return math.fsum(values) / len(values) if values else math.nan

    return {
        "average_accuracy": mean(r(T, j) for j in range(1, T + 1)),
        "average_incremental_accuracy": mean(mean(r(i, j) for j in range(1, i + 1)) for i in range(1, T + 1)),
        "learning_accuracy": mean(r(j, j) for j in range(1, T + 1)),
        "backward_transfer": mean(r(T, j) - r(j, j) for j in range(1, T)),
        "forward_transfer": mean(r(i - 1, i) - r(0, i) for i in range(2, T + 1)),
        "forgetting": mean(max(r(i, j) for i in range(j, T)) - r(T, j) for j in range(1, T)),
        "worst_case_accuracy": r(T, T) / T
        + (1 - 1 / T) * (mean(min(r(i, j) for i in range(j + 1, T + 1)) for j in range(1, T)) if T > 1 else 0),
    }


@hypothesis.given(
    st.integers(1, 7).flatmap(
        lambda T: st.lists(st.lists(st.floats(0, 1, width=32), min_size=T, max_size=T), min_size=T + 1, max_size=T + 1)
    )
)
@hypothesis.settings(deadline=None, max_examples=300)
def test_any_matrix_equals_a_slow_independent_implementation(rows):
    found = metrics.all_metrics(metrics.matrix(rows))
    for name, value in slow_metrics(rows).items():
        assert found[name] == (None if math.isnan(value) else pytest.approx(value, abs=1e-12)), name
