"""Per-example squared gradients, computed in one place: EWC's Fisher information and the selectors' scores."""

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from frostline.core.checks import UsageError, one_of
from frostline.core.objectives import Classification, Objective
from frostline.core.scope import evaluating
from frostline.core.structure import parameter_of
from frostline.core.types import Batch, Task, masked

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
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    count, dense = 0, _dense_layers(model)

    def add(batch: Batch, y: Tensor, mask: Tensor | None, weight: Tensor | None = None) -> None:
        squares = _dense_squares(model, task.objective, dense, batch.x, y, mask, weight)
        rest = [n for n in total if n not in squares]
        squares |= _other_squares(model, task.objective, rest, batch.x, y, mask, weight)
        for name, value in squares.items():
            total[name] += value

    with evaluating(model):
        for batch in batches:
            count += len(batch)
            mask = task.mask(batch)
            mask = None if mask is None else mask.expand(len(batch), -1)  # one row an example, also where all are alike
            if labels == "empirical":
                add(batch, batch.y, mask)
                continue
            with torch.no_grad():
                logits = masked(model(batch.x), mask)
            if labels == "sampled":
                add(batch, task.objective.draw(logits, generator), mask)
                continue
            if logits.ndim != 2 or not isinstance(task.objective, Classification):
                raise UsageError(
                    "labels='exact' sums over the classes of one label a sample. Use sampled or empirical."
                )
            probabilities = logits.softmax(1)
            for label in range(probabilities.shape[1]):
                p = probabilities[:, label]
                if not bool((p > 0).any()):
                    continue
                # An invisible class has probability 0 and an infinite loss: give it a finite one, weighted by 0.
                y = torch.where(p > 0, torch.full_like(batch.y, label), batch.y)
                add(batch, y, mask, p)
    return {n: t / max(count, 1) for n, t in total.items()}


def _dense_layers(model: nn.Module) -> list[str]:
    """Return the names of the linear layers that share no weight with another module.

    The head is one of them: a class that it hides has no gradient at its output.
    """
    owners = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    return [
        name
        for name, m in model.named_modules()
        if type(m) is nn.Linear and all(owners[id(p)] == 1 for p in m.parameters(recurse=False))
    ]


def _dense_squares(
    model: nn.Module,
    objective: Objective,
    dense: list[str],
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
) -> dict[str, Tensor]:
    """Return the summed squares for the linear layers that saw one vector an example.

    There the example's gradient is an outer product g a^T, so the sum of squares is (G * G)^T (A * A): two
    matrices a layer where one gradient an example would be thousands of times as much memory.
    """
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in dense}

    def watch(name: str) -> Callable[..., Tensor]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not output.requires_grad:
                output.requires_grad_()  # a frozen layer has a gradient at its output too
            seen[name].append((inputs[0].detach().square(), output))
            return output.clone()  # what follows may work in place; the gradient is wanted before that

        return keep

    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in dense]
    try:
        with torch.enable_grad():
            loss = objective.nll(masked(model(x), mask), y).sum()
    finally:
        for handle in handles:
            handle.remove()
    usable = [name for name in dense if len(seen[name]) == 1 and seen[name][0][0].ndim == 2]
    if not usable:
        return {}
    gradients = torch.autograd.grad(loss, [seen[name][0][1] for name in usable])
    squares = {}
    for name, g in zip(usable, gradients, strict=True):
        g2 = g.square() if weight is None else weight[:, None] * g.square()
        squares[parameter_of(name, "weight")] = g2.T @ seen[name][0][0]
        if model.get_submodule(name).bias is not None:
            squares[parameter_of(name, "bias")] = g2.sum(0)
    return squares


def _other_squares(
    model: nn.Module,
    objective: Objective,
    names: list[str],
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
) -> dict[str, Tensor]:
    """Return the summed squares of any parameters, through one gradient an example (vmap), in chunks."""
    values = {n: p.detach() for n, p in model.named_parameters()}
    fixed = {n: v for n, v in values.items() if n not in names} | {n: b.detach() for n, b in model.named_buffers()}
    wanted = {n: values[n] for n in names}
    chunk = max(1, CHUNK_BYTES // (4 * max(1, sum(p.numel() for p in wanted.values()))))

    def log_likelihood(weights: dict[str, Tensor], x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        logits = functional_call(model, (weights, fixed), (x[None],))
        return objective.nll(masked(logits, None if mask is None else mask[None]), y[None]).sum()

    in_dims = (None, 0, 0, None if mask is None else 0)
    recurrent = any(isinstance(m, nn.RNNBase) for m in model.modules())  # has no rule for vmap
    per_example = (
        _one_by_one(grad(log_likelihood))
        if recurrent
        else vmap(grad(log_likelihood), in_dims=in_dims, randomness="different")
    )
    squares = {n: torch.zeros_like(v) for n, v in wanted.items()}
    for part in range(0, len(y) if names else 0, chunk):
        rows = slice(part, part + chunk)
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no rule for vmap: one call an example
            grads = per_example(wanted, x[rows], y[rows], None if mask is None else mask[rows])
        for name, g in grads.items():
            flat = g.reshape(len(g), -1)
            summed = torch.einsum("bi,bi->i", flat, flat) if weight is None else weight[rows] @ flat.square()
            squares[name] += summed.view_as(squares[name])
    return squares


def _one_by_one(of_one: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    """Return what vmap would of a function of (weights, x, y, mask), an example after another."""

    def of_all(weights: dict[str, Tensor], x: Tensor, y: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        each = [of_one(weights, x[i], y[i], None if mask is None else mask[i]) for i in range(len(y))]
        return {name: torch.stack([grads[name] for grads in each]) for name in weights}

    return of_all


def probe(task: Task, samples: int | None, generator: torch.Generator, size: int = 128) -> Iterable[Batch]:
    """Yield batches of a random `samples` of the task's training data (all where None)."""
    order = torch.randperm(len(task.train), generator=generator)
    return task.train.batches(size, order if samples is None else order[:samples])


def mean_by_layer(model_layers: dict[str, tuple[str, ...]], squares: dict[str, Tensor]) -> dict[str, float]:
    """Return each layer's mean squared gradient per parameter."""
    names = [torch.cat([squares[p].flatten() for p in own]).mean() for own in model_layers.values()]
    return dict(zip(model_layers, torch.stack(names).tolist(), strict=True))
