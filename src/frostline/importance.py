"""Per-example squared gradients, computed in one place: EWC's Fisher information and the selectors' scores."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from frostline.checks import one_of
from frostline.scope import evaluating
from frostline.types import Batch, Task

LABELS = ("empirical", "sampled", "exact")
CHUNK_BYTES = 2**27  # of per-example gradients held at once


def squared_gradients(
    model: nn.Module,
    task: Task,
    batches: Iterable[Batch],
    *,
    labels: str = "empirical",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Return the mean over examples of the squared gradient of the log-likelihood, for every parameter by name.

    This is the diagonal of the Fisher information (Kirkpatrick et al. 2017, arXiv 1612.00796): squared for each
    example and then averaged, in eval mode. Several frameworks square the gradient of the batch mean instead, which
    is smaller by up to the batch size.

    labels: 'empirical' takes the data's labels, 'sampled' draws them from the model, 'exact' sums over all visible
    classes weighted by the model's probabilities (one backward pass a class).
    """
    one_of("labels", labels, LABELS)
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    buffers = {n: b.detach() for n, b in model.named_buffers()}
    total = {n: torch.zeros_like(p) for n, p in parameters.items()}
    chunk = max(1, CHUNK_BYTES // (4 * sum(p.numel() for p in parameters.values())))

    def log_likelihood(weights: dict[str, Tensor], x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        visible = None if mask is None else mask[None]
        return F.cross_entropy(functional_call(model, (weights, buffers), (x[None], visible)), y[None])

    def add(x: Tensor, y: Tensor, mask: Tensor | None, weight: Tensor | None = None) -> None:
        per_example = vmap(
            grad(log_likelihood), in_dims=(None, 0, 0, None if mask is None else 0), randomness="different"
        )
        for part in range(0, len(y), chunk):
            rows = slice(part, part + chunk)
            grads = per_example(parameters, x[rows], y[rows], None if mask is None else mask[rows])
            for name, g in grads.items():
                flat = g.reshape(len(g), -1)
                squares = torch.einsum("bi,bi->i", flat, flat) if weight is None else weight[rows] @ flat.square()
                total[name] += squares.view_as(total[name])

    count = 0
    with evaluating(model):
        for batch in batches:
            count += len(batch)
            mask = task.mask(batch)
            if labels == "empirical":
                add(batch.x, batch.y, mask)
                continue
            with torch.no_grad():
                probabilities = model(batch.x, mask).softmax(1)
            if labels == "sampled":
                drawn = torch.multinomial(probabilities.cpu(), 1, generator=generator).squeeze(1)
                add(batch.x, drawn.to(batch.y.device), mask)
                continue
            for label in range(probabilities.shape[1]):
                p = probabilities[:, label]
                if not bool((p > 0).any()):
                    continue
                # An invisible class has probability 0 and an infinite loss: give it a finite one, weighted by 0.
                y = torch.where(p > 0, torch.full_like(batch.y, label), batch.y)
                add(batch.x, y, mask, p)
    return {n: t / max(count, 1) for n, t in total.items()}


def probe(task: Task, samples: int | None, generator: torch.Generator, size: int = 128) -> Iterable[Batch]:
    """Yield batches of a random `samples` of the task's training data (all where None)."""
    order = torch.randperm(len(task.train), generator=generator)
    return task.train.batches(size, order if samples is None else order[:samples])


def mean_by_layer(model_layers: dict[str, tuple[str, ...]], squares: dict[str, Tensor]) -> dict[str, float]:
    """Return each layer's mean squared gradient per parameter."""
    names = [torch.cat([squares[p].flatten() for p in own]).mean() for own in model_layers.values()]
    return dict(zip(model_layers, torch.stack(names).tolist(), strict=True))
