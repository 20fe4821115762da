"""Whether new samples differ from old ones, in what, how surely, and from which block of a net on."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from frostline.core.checks import UsageError
from frostline.core.objectives import Classification
from frostline.core.scope import evaluating
from frostline.core.structure import block_modules
from frostline.core.types import Batch, Task, masked

EXACT = 100  # samples up to which p is not taken from the limit of many
COMPONENTS = 32  # directions of widest spread that features are tested along
OUTSIDE = ("labels", "inputs", "logits", "loss")  # what is looked at beside the blocks
Look = dict[str, np.ndarray]  # [n, D] of each thing looked at, labels [n]


class Difference(NamedTuple):
    """How two samples differ in one thing: `statistic` between 0 and 1, and the chance of so much by luck, `p`."""

    name: str
    statistic: float
    p: float


def look(model: nn.Module, task: Task, batches: Iterable[Batch]) -> Look:
    """Return what some samples are to a net: labels, inputs, each block's output (means over places), logits, loss.

    Inputs that are token ids are left out: what the net makes of them says more. Blocks are named as block_modules has them.
    """
    found: dict[str, list[Tensor]] = {}

    def add(name: str, value: Tensor) -> None:
        found.setdefault(name, []).append(value.detach().float().cpu())

    with torch.no_grad(), evaluating(model):
        for batch in batches:
            with _overheard(model, batch, add):
                raw = model(batch.x)
            add("labels", batch.y)
            if batch.x.is_floating_point():
                add("inputs", batch.x.flatten(1))
            add("logits", _pooled(raw, batch))
            logits = masked(raw, task.mask(batch)).float()
            nll, counted = task.objective.nll(logits, batch.y), task.objective.counted(batch.y)
            add("loss", (nll / counted.reshape(len(batch), -1).sum(1).clamp(min=1))[:, None])
    order = ("labels", "inputs", *block_modules(model), "logits", "loss")
    return {name: torch.cat(found[name]).numpy() for name in order if name in found}


@contextmanager
def _overheard(model: nn.Module, batch: Batch, add: Any) -> Iterator[None]:
    """Add what each block puts out while the batch goes by."""

    def hear(name: str) -> Any:
        def hook(_: nn.Module, __: Any, out: Any) -> None:
            value = out if isinstance(out, Tensor) else next((v for v in out if isinstance(v, Tensor)), None)
            if value is not None and value.ndim > 1 and len(value) == len(batch):
                add(name, _pooled(value, batch))

        return hook

    handles = [model.get_submodule(n).register_forward_hook(hear(n)) for n in block_modules(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pooled(value: Tensor, batch: Batch) -> Tensor:
    """Return means over places, [B, D]: of maps [B, D, ...], of tokens [B, L, D], which is what is of three dimensions.

    Unless samples are of two themselves, [C, L], and the output keeps another number of rows: those are channels.
    """
    if value.ndim == 3 and (batch.x.ndim != 3 or value.shape[1] == batch.x.shape[1]):
        return value.mean(1)
    return value.flatten(2).mean(2) if value.ndim > 2 else value


def compare(old: Look, new: Look, task: Task) -> list[Difference]:
    """Return how the samples differ in each thing that both were looked at in, in the order of the first.

    Labels by the chi-squared test of homogeneity (their statistic is the total variation distance), all else by
    Kolmogorov-Smirnov tests along each of at most 32 directions, the principal components of both samples together, whose
    smallest p is multiplied by their number (Rabanser et al. 2019, arXiv 1810.11953).
    """
    found = []
    for name in (name for name in old if name in new):
        if name == "labels" and isinstance(task.objective, Classification):
            if old[name].ndim == 1:  # a text's tokens are its inputs
                found.append(_counts_differ(name, old[name], new[name]))
        else:
            found.append(_values_differ(name, old[name], new[name]))
    return found


def _counts_differ(name: str, old: np.ndarray, new: np.ndarray) -> Difference:
    classes = np.unique(np.r_[old, new])
    table = np.stack([(values[:, None] == classes).sum(0) for values in (old, new)])
    if len(classes) < 2:
        return Difference(name, 0.0, 1.0)
    shares = table / table.sum(1, keepdims=True)
    test: Any = stats.chi2_contingency(table)
    return Difference(name, float(abs(shares[0] - shares[1]).sum() / 2), float(test.pvalue))


def _values_differ(name: str, old: np.ndarray, new: np.ndarray) -> Difference:
    old, new = (values.reshape(len(values), -1).astype(np.float64) for values in (old, new))
    if name == "loss":  # of a class that the model is not to know
        old, new = (np.nan_to_num(values, nan=np.nan, posinf=1e30) for values in (old, new))
    if old.shape[1] > COMPONENTS:
        from sklearn.decomposition import PCA

        both = np.r_[old, new]
        components = PCA(min(COMPONENTS, len(both)), svd_solver="randomized", random_state=0).fit_transform(both)
        old, new = components[: len(old)], components[len(old) :]
    if not (np.isfinite(old).all() and np.isfinite(new).all()):
        raise UsageError(f"{name}: values that are no numbers. The net puts out NaN or infinity on these samples.")
    varying = np.ptp(np.r_[old, new], axis=0) > 0
    if not varying.any():
        return Difference(name, 0.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ties: then it is the more careful
        method: Any = "exact" if min(len(old), len(new)) < EXACT else "asymp"
        tests: list[Any] = [stats.ks_2samp(old[:, i], new[:, i], method=method) for i in np.flatnonzero(varying)]
    p = min(float(test.pvalue) for test in tests) * len(tests)
    return Difference(name, max(float(test.statistic) for test in tests), min(1.0, p))


def moved(differences: Iterable[Difference], alpha: float, at_least: float, tests: int = 1) -> list[str]:
    """Return what differs: by `at_least`, and surely, at level alpha over all of `tests` looks of so many things."""
    all_of = list(differences)
    level = alpha / (tests * max(1, len(all_of)))
    return [d.name for d in all_of if d.p < level and d.statistic >= at_least]


def retrain_from(names: Iterable[str], blocks: Sequence[str]) -> int | None:
    """Return the block that what moved suggests to retrain from, len(blocks) for the head alone, None for nothing.

    The shallowest block that moved. Where none did and the loss did, the first if inputs are others (what makes it worse is
    too spread out to be seen in one direction), else the head: what inputs mean is another thing. Inputs alone, of which
    neither the net nor its loss takes notice, are no reason.
    """
    gone = set(names)
    place = next((place for place, name in enumerate(blocks) if name in gone), None)
    if place is None and "loss" in gone and "inputs" in gone:
        return 0
    return len(blocks) if place is None and gone - {"inputs"} else place
