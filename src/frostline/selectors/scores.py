"""What each layer is worth retraining: one number a layer, by the measures that the rules share.

A layer is the parameters of one module; scores are by module name.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frostline.core.importance import mean_by_layer, probe, squared_gradients
from frostline.core.scope import evaluating
from frostline.core.structure import layers
from frostline.core.types import Batch, Task
from frostline.costs import TaskCosts

Scores = dict[str, float]


def fisher(
    model: nn.Module, task: Task, costs: TaskCosts, samples: int, rng: torch.Generator, labels: str = "sampled"
) -> Scores:
    """Return the mean squared per-example gradient per parameter (labels: see importance.squared_gradients)."""
    batches = probe(task, costs.probe_samples(samples), rng)
    return mean_by_layer(layers(model), squared_gradients(model, task, batches, labels=labels, generator=rng))


def rgn(model: nn.Module, task: Task, costs: TaskCosts, samples: int, rng: torch.Generator, batches: int = 5) -> Scores:
    """Return ||g||_2 / ||theta||_2, the mean over a few batches, batch-norm left out (Lee et al. 2023, arXiv 2210.11466)."""
    groups = {name: own for name, own in layers(model).items() if not isinstance(model.get_submodule(name), _BatchNorm)}
    sizes = _norms(groups, dict(model.named_parameters()))
    ratios = []
    for batch in _probe_batches(task, costs, samples, rng, batches):
        ratios.append(_norms(groups, _gradients(model, task, batch)) / sizes.clamp(min=1e-12))
    return dict(zip(groups, torch.stack(ratios).mean(0).tolist(), strict=True))


def snr(model: nn.Module, task: Task, costs: TaskCosts, samples: int, rng: torch.Generator) -> Scores:
    """Return E[g]^2 / Var[g] over samples, the mean over a layer's parameters, scaled so that the largest is 1.

    The per-sample variance is that of Lee et al. 2023 as written; their code is `snr_of_the_code`.
    """
    count = max(2, costs.probe_samples(samples))
    batch = next(iter(probe(task, count, rng, size=count)))
    squares = squared_gradients(model, task, [batch], labels="empirical")
    mean = _gradients(model, task, batch)
    ratio = {n: m.square() / (squares[n] - m.square()).clamp(min=1e-12) for n, m in mean.items()}
    scores = mean_by_layer(layers(model), ratio)
    top = max(scores.values())
    return {name: score / top for name, score in scores.items()} if top > 0 else scores


def snr_of_the_code(
    model: nn.Module, task: Task, costs: TaskCosts, samples: int, rng: torch.Generator, batches: int = 5
) -> Scores:
    """Return what the authors' code computes instead: the variance runs over dimension 0 of a batch's gradient tensor.

    A tensor with one row has no such variance and scores 0; nothing is scaled. Batch-norm is left out.
    """
    groups = {name: own for name, own in layers(model).items() if not isinstance(model.get_submodule(name), _BatchNorm)}
    rows = []
    for batch in _probe_batches(task, costs, samples, rng, batches):
        grads = _gradients(model, task, batch)
        values = {
            n: g * g / (torch.var(g, dim=0, keepdim=True) + 1e-8) if len(g) > 1 else g * 0 for n, g in grads.items()
        }
        rows.append(torch.stack([torch.cat([values[n].flatten() for n in own]).mean() for own in groups.values()]))
    return dict(zip(groups, torch.stack(rows).mean(0).tolist(), strict=True))


def spectrum(model: nn.Module) -> Scores:
    """Return the signal-to-noise ratio of each weight matrix's singular values (Hartford et al. 2024, arXiv 2406.06623).

    Singular values at or below eps = sigma (1 + sqrt(min/max)) of the matrix's sides are noise, with sigma = IQR / 1.349 as
    of a normal distribution; the score is signal / noise / the largest value. Filters count as rows. Needs no data. A
    spectrum so flat that nothing is noise by this measure, as of a wide random matrix, scores infinity.
    """
    scores = {}
    for name, own in layers(model).items():
        weights = [p for n in own if (p := model.get_parameter(n)).ndim >= 2]
        if weights:
            scores[name] = max(_spectral_snr(w.detach().flatten(1)) for w in weights)
    return scores


def _spectral_snr(matrix: Tensor) -> float:
    values = torch.linalg.svdvals(matrix.float())
    low, high = torch.quantile(values, torch.tensor([0.25, 0.75], device=values.device))
    rows, columns = sorted(matrix.shape)
    eps = (high - low) / 1.349 * (1 + (rows / columns) ** 0.5)
    signal, noise = values[values > eps].sum(), values[values <= eps].sum()
    return float(signal / noise / values.max()) if noise > 0 else float("inf")


def best_under_share(
    model: nn.Module, scores: Mapping[str, float], chosen: frozenset[str], fraction: float
) -> frozenset[str]:
    """Return `chosen` and the layers in the order of their score as far as `fraction` of all parameters goes."""
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    groups, taken = layers(model), set(chosen)
    room = fraction * sum(sizes.values()) - sum(sizes[n] for n in chosen)
    for layer in sorted(scores, key=lambda name: -scores[name]):
        fresh = set(groups[layer]) - taken
        size = sum(sizes[n] for n in fresh)
        if size <= room:
            taken |= fresh
            room -= size
    return frozenset(taken)


def _probe_batches(task: Task, costs: TaskCosts, samples: int, rng: torch.Generator, batches: int) -> list[Batch]:
    count = costs.probe_samples(samples)
    return list(probe(task, count, rng, size=-(-count // batches)))


def _gradients(model: nn.Module, task: Task, batch: Batch) -> dict[str, Tensor]:
    """Return the gradient of the batch's mean loss, for every parameter by name; 0 where it has none."""
    named = dict(model.named_parameters())
    with evaluating(model), torch.enable_grad():
        loss = task.objective.loss(task.logits(model, batch), batch.y)
        grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), grads, strict=True)}


def _norms(groups: Mapping[str, tuple[str, ...]], values: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([torch.cat([values[n].detach().flatten() for n in own]).norm() for own in groups.values()])
