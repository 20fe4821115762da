"""Continual-learning metrics: pure functions of the accuracy matrix R, shape [..., T+1, T].

Row i holds the test accuracy on every task after learning the i-th task, row 0 that of the untrained model. Cells
that were not evaluated are NaN. A metric whose cells are missing is NaN, never a mean over what happens to be there.
While a run is going on, the metrics speak of the tasks learned so far.

In the formulas below tasks count from 1, so R[i, j] is task j after task i.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NAMES = (
    "average_accuracy",
    "average_incremental_accuracy",
    "learning_accuracy",
    "backward_transfer",
    "forward_transfer",
    "prequential_accuracy",
    "forgetting",
    "intransigence",
    "worst_case_accuracy",
    "held_out_change",
    "held_out_loss_rise",
    "output_drift",
    "task_aware_accuracy",
    "negative_flip_rate",
    "anytime_accuracy",
    "stability_gap",
    "worst_case_within",
)
WITHIN = NAMES[-3:]  # of evaluations within tasks


def matrix(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Return rows with nulls as a float array with NaNs."""
    return np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=np.float64)


def learned(R: np.ndarray) -> np.ndarray:
    """Return R cut to the tasks learned so far: up to the last row that holds anything."""
    R = np.asarray(R, dtype=np.float64)
    if R.ndim < 2 or R.shape[-2] != R.shape[-1] + 1:
        raise ValueError(f"the accuracy matrix must have shape [..., T+1, T], not {list(R.shape)}")
    filled = np.flatnonzero(~np.isnan(R).all(axis=-1).reshape(-1, R.shape[-2]).all(axis=0))
    k = int(filled[-1]) if len(filled) else 0
    return R[..., : k + 1, :k]


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis; of nothing it is NaN."""
    return values.mean(axis=-1) if values.shape[-1] else np.full(values.shape[:-1], np.nan)


def _diagonal(R: np.ndarray) -> np.ndarray:
    return np.diagonal(R[..., 1:, :], axis1=-2, axis2=-1)


def average_accuracy(R: np.ndarray) -> np.ndarray:
    """Return the mean over tasks of the last row: (1/T) sum_j R[T, j]."""
    return _mean(learned(R)[..., -1, :])


def average_incremental_accuracy(R: np.ndarray) -> np.ndarray:
    """Return the mean over i of the mean accuracy on tasks 1..i after task i (Rebuffi et al. 2017, iCaRL)."""
    R = learned(R)
    rows = [R[..., i, :i].mean(axis=-1) for i in range(1, R.shape[-2])]
    return _mean(np.stack(rows, axis=-1)) if rows else np.full(R.shape[:-2], np.nan)


def learning_accuracy(R: np.ndarray) -> np.ndarray:
    """Return the mean accuracy on each task right after learning it: (1/T) sum_j R[j, j] (Riemer et al. 2019)."""
    return _mean(_diagonal(learned(R)))


def backward_transfer(R: np.ndarray) -> np.ndarray:
    """Return mean over j < T of R[T, j] - R[j, j] (Lopez-Paz & Ranzato 2017)."""
    R = learned(R)
    return _mean(R[..., -1, :-1] - _diagonal(R)[..., :-1])


def forward_transfer(R: np.ndarray) -> np.ndarray:
    """Return mean over i >= 2 of R[i-1, i] - R[0, i]: against the untrained model (Lopez-Paz & Ranzato 2017)."""
    R = learned(R)
    before = np.diagonal(R, axis1=-2, axis2=-1)  # rows count from 0 and columns from 1: this is R[i-1, i]
    return _mean((before - R[..., 0, :])[..., 1:])


def prequential_accuracy(R: np.ndarray) -> np.ndarray:
    """Return mean over i >= 2 of R[i-1, i]: each task just before it is learned (Dawid 1984, test then train).

    On a stream whose tasks are tested on what they teach it is the accuracy of a model that is always a task behind; the first
    task, before which nothing was learned, is left out.
    """
    R = learned(R)
    return _mean(np.diagonal(R, axis1=-2, axis2=-1)[..., 1:])


def forgetting(R: np.ndarray) -> np.ndarray:
    """Return mean over j < T of (max over j <= i < T of R[i, j]) - R[T, j] (Chaudhry et al. 2018)."""
    R = learned(R)
    T = R.shape[-1]
    drops = [R[..., j + 1 : T, j].max(axis=-1) - R[..., T, j] for j in range(T - 1)]
    return _mean(np.stack(drops, axis=-1)) if drops else np.full(R.shape[:-2], np.nan)


def intransigence(R: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """Return mean over j of a*_j - R[j, j] (Chaudhry et al. 2018); NaN without a reference.

    reference [..., T]: accuracy on task j of a model trained on the data of tasks 1..j together: the diagonal of a
    `cumulative` run. `frostline compare` fills this in when such a run is among those compared.
    """
    diagonal = _diagonal(learned(R))
    if reference is None:
        return np.full(diagonal.shape[:-1], np.nan)
    return _mean(np.asarray(reference)[..., : diagonal.shape[-1]] - diagonal)


def worst_case_accuracy(R: np.ndarray) -> np.ndarray:
    """Return (1/T) R[T, T] + (1 - 1/T) mean over j < T of (min over i > j of R[i, j]) (De Lange et al. 2023).

    The paper takes the minimum over every training step; here over the evaluations at the ends of the tasks.
    """
    R = learned(R)
    T = R.shape[-1]
    if T < 2:
        return _mean(R[..., -1, :])
    low = np.stack([R[..., j + 2 :, j].min(axis=-1) for j in range(T - 1)], axis=-1)
    return R[..., T, T - 1] / T + (1 - 1 / T) * _mean(low)


def held_out_change(suites: Sequence[Sequence[float | None]]) -> float:
    """Return the mean accuracy on the held-out suites now minus before the first task; each is T+1 numbers, null to come."""
    changes = []
    for suite in suites:
        known = [value for value in suite if value is not None]
        changes.append(known[-1] - known[0] if len(known) > 1 else np.nan)
    return float(np.mean(changes)) if changes else np.nan


def held_out_loss_rise(suites: Sequence[Sequence[float | None]]) -> float:
    """Return the mean loss on the held-out suites now minus before the first task, a target; each is T+1 numbers.

    Of language models in nats a token: what PEFT's method comparison calls forgetting. Suites that have no loss do not count.
    """
    return held_out_change([suite for suite in suites if any(value is not None for value in suite)])


def output_drift(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the divergence from the base at the last look, mean over suites, in nats; rows: see core.output_drift.measure."""
    last = {row["suite"]: row["kl"] for row in rows}
    return float(np.mean(list(last.values()))) if last else np.nan


def negative_flip_rate(flips: Sequence[Sequence[int]]) -> float:
    """Return the share of test targets of earlier tasks that were right before a task and are wrong after it.

    The mean over tasks (Yan et al. 2021, arXiv 2011.09161): what a user of the model sees break, however much else mends.
    flips: for each task but the first, how many became wrong, how many right, and of how many.
    """
    return float(np.mean([lost / count for lost, _, count in flips])) if len(flips) else np.nan


def anytime_accuracy(R: np.ndarray, within: np.ndarray) -> float:
    """Return the mean over all evaluations, those at the ends of tasks too, of the mean accuracy on the tasks begun by then.

    With evaluations at equal distances that is the area under the curve of accuracy (Koh et al. 2022, i-Blurry, A_AUC).
    within [E, 2 + T]: the task, the steps taken, the accuracy on each task.
    """
    R = learned(R)
    begun = [(int(row[0]), row[2:]) for row in within] + [(i, R[i + 1]) for i in range(R.shape[-1])]
    return float(np.mean([row[: task + 1].mean() for task, row in begun])) if begun else np.nan


def stability_gap(R: np.ndarray, within: np.ndarray) -> float:
    """Return how far accuracy on an old task falls within a later one below what it was before that, at its lowest.

    The mean over old tasks and later ones, negative where it never fell (De Lange et al. 2023, arXiv 2205.13452). Nothing of
    it can be seen at the ends of tasks.
    """
    R, gaps = learned(R), []
    for i in range(1, R.shape[-1]):
        inside = within[within[:, 0] == i][:, 2 : 2 + i]
        if len(inside):
            gaps.append((R[i, :i] - inside.min(axis=0)).mean())
    return float(np.mean(gaps)) if gaps else np.nan


def worst_case_within(R: np.ndarray, within: np.ndarray) -> float:
    """Return worst_case_accuracy with its minima over every evaluation, within tasks too, as the paper has it (WC-ACC)."""
    R = learned(R)
    T, lows = R.shape[-1], []
    for j in range(T - 1):
        inside = within[within[:, 0] > j][:, 2 + j]
        lows.append(np.concatenate([R[j + 2 :, j], inside]).min())
    return float(R[T, T - 1] / T + (1 - 1 / T) * np.mean(lows)) if lows else float(_mean(R[-1, :]))


def all_metrics(
    R: np.ndarray,
    reference: np.ndarray | None = None,
    held_out: Sequence[Sequence[float | None]] = (),
    within: np.ndarray | None = None,
    aware: np.ndarray | None = None,
    flips: Sequence[Sequence[int]] = (),
    drift: Sequence[Mapping[str, Any]] = (),
    held_out_loss: Sequence[Sequence[float | None]] = (),
) -> dict[str, float | None]:
    """Return every metric of one run by its name, None where it is not defined.

    within: evaluations within tasks, [E, 2 + T], see anytime_accuracy. aware: R where samples say which task they are of.
    flips: see negative_flip_rate. drift: see output_drift.
    """
    other = (
        "intransigence", "held_out_change", "held_out_loss_rise", "output_drift", "task_aware_accuracy", "negative_flip_rate",
        *WITHIN,
    )  # fmt: skip
    values = {name: globals()[name](R) for name in NAMES if name not in other}
    values |= {name: np.nan if within is None else globals()[name](R, within) for name in WITHIN}
    values["intransigence"] = intransigence(R, reference)
    values["held_out_change"] = held_out_change(held_out)
    values["held_out_loss_rise"] = held_out_loss_rise(held_out_loss)
    values["output_drift"] = output_drift(drift)
    values["task_aware_accuracy"] = np.nan if aware is None else average_accuracy(aware)
    values["negative_flip_rate"] = negative_flip_rate(flips)
    return {name: None if np.isnan(values[name]) else float(values[name]) for name in NAMES}
