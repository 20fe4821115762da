"""Per-example gradients, squared or absolute, computed in one place: Fisher information, sensitivity, the selectors' scores."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from frostline.core.checks import UsageError, one_of
from frostline.core.examples import ExampleSums, Measure
from frostline.core.objectives import Classification
from frostline.core.scope import evaluating
from frostline.core.types import Batch, Task, masked

LABELS = ("empirical", "sampled", "exact")  # of each example's own gradient
ESTIMATES = (*LABELS, "batched")


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
    example and then averaged, in eval mode.

    labels: 'empirical' takes the data's labels, 'sampled' draws them from the model, 'exact' sums over all visible
    classes weighted by the model's probabilities (one backward pass a class). 'batched' is what several frameworks have in
    its place: the square of the gradient of each batch's mean, at the data's labels, smaller by up to the batch's size (van
    de Ven 2025, arXiv 2502.11756, on what difference these make).
    """
    if labels == "batched":
        return _squares_of_means(model, task, batches)
    total, count = ExampleSums(model, likelihood(task), power=2), 0
    with evaluating(model):
        for batch, first, y, mask, weight in labelled(model, task, batches, labels, generator):
            count += len(batch) if first else 0
            total.add(batch, y, mask, weight)
    return total.over(count)


def _squares_of_means(model: nn.Module, task: Task, batches: Iterable[Batch]) -> dict[str, Tensor]:
    measure, weights = likelihood(task), {n: p.detach() for n, p in model.named_parameters()}
    total, count = {n: torch.zeros_like(p) for n, p in weights.items()}, 0  # of batches

    def mean(values: dict[str, Tensor], batch: Batch) -> Tensor:
        return measure(functional_call(model, values, (batch.x,)), batch.y, visible_rows(task, batch)).mean()

    with evaluating(model):
        for batch in batches:
            count += 1
            for name, gradient in grad(mean)(weights, batch).items():
                total[name] += gradient.square()
    return {n: t / max(count, 1) for n, t in total.items()}


def likelihood(task: Task) -> Measure:
    """Return each example's negative log-likelihood, as a function of raw logits, targets and visible classes."""
    return lambda raw, y, mask: task.objective.nll(masked(raw, mask), y)


def labelled(
    model: nn.Module, task: Task, batches: Iterable[Batch], labels: str, generator: torch.Generator | None
) -> Iterator[tuple[Batch, bool, Tensor, Tensor | None, Tensor | None]]:
    """Yield each batch, whether for the first time, with targets, visible classes, and each example's weight, None for 1.

    labels: see squared_gradients.
    """
    one_of("labels", labels, LABELS)
    for batch in batches:
        mask = visible_rows(task, batch)
        if labels == "empirical":
            yield batch, True, batch.y, mask, None
            continue
        with torch.no_grad():
            logits = masked(model(batch.x), mask)
        if labels == "sampled":
            yield batch, True, task.objective.draw(logits, generator), mask, None
            continue
        if logits.ndim != 2 or not isinstance(task.objective, Classification):
            raise UsageError("labels='exact' sums over the classes of one label a sample. Use sampled or empirical.")
        probabilities, first = logits.softmax(1), True
        for label in range(probabilities.shape[1]):
            p = probabilities[:, label]
            if bool((p > 0).any()):
                # An invisible class has probability 0 and an infinite loss: give it a finite one, weighted by 0.
                yield batch, first, torch.where(p > 0, torch.full_like(batch.y, label), batch.y), mask, p
                first = False


def sensitivity(model: nn.Module, task: Task, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Return the mean over examples of |d |f(x)|^2 / d theta| for every parameter by name: f are the logits that count.

    Aljundi et al. 2018, arXiv 1711.09601. Each example's own absolute value, in eval mode.
    """

    def length(raw: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        seen = raw if mask is None else torch.where(masked(raw, mask).isfinite(), raw, 0.0)
        return seen.square().flatten(1).sum(1)

    total, count = ExampleSums(model, length, power=1), 0
    with evaluating(model):
        for batch in batches:
            count += len(batch)
            total.add(batch, batch.y, visible_rows(task, batch))
    return total.over(count)


def visible_rows(task: Task, batch: Batch) -> Tensor | None:
    """Return the visible classes, one row an example also where all are alike."""
    mask = task.mask(batch)
    return None if mask is None else mask.expand(len(batch), -1)


def probe(task: Task, samples: int | None, generator: torch.Generator, size: int = 128) -> Iterable[Batch]:
    """Yield batches of a random `samples` of the task's training data (all where None)."""
    order = torch.randperm(len(task.train), generator=generator)
    return task.train.batches(size, order if samples is None else order[:samples])


def mean_by_layer(model_layers: dict[str, tuple[str, ...]], squares: dict[str, Tensor]) -> dict[str, float]:
    """Return each layer's mean squared gradient per parameter."""
    names = [torch.cat([squares[p].flatten() for p in own]).mean() for own in model_layers.values()]
    return dict(zip(model_layers, torch.stack(names).tolist(), strict=True))
