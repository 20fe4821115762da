"""Gradients of single examples: their sums by layer where that is one product, else one by one."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from frostline.core.structure import parameter_of
from frostline.core.types import Batch

_ONE_BY_ONE: WeakSet[nn.Module] = WeakSet()  # models that vmap cannot run
CHUNK_BYTES = 2**27  # of per-example gradients held at once

# Of raw logits, targets and visible classes: one number a sample.
Measure = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class ExampleSums:
    """Sums over examples of |gradient of the measure|^power, for every parameter."""

    def __init__(self, model: nn.Module, measure: Measure, power: int):
        self.model, self.measure, self.power = model, measure, power
        self.total = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
        self.dense = dense_layers(model)

    def add(self, batch: Batch, y: Tensor, mask: Tensor | None, weight: Tensor | None = None) -> None:
        """Add a batch's, each example times its weight."""
        given = (batch.x, y, mask, weight)
        sums = _dense_sums(self.model, self.measure, self.power, self.dense, *given)
        rest = [n for n in self.total if n not in sums]
        sums |= _other_sums(self.model, self.measure, self.power, rest, *given)
        for name, value in sums.items():
            self.total[name] += value

    def over(self, count: int) -> dict[str, Tensor]:
        """Return the means over so many examples."""
        return {n: t / max(count, 1) for n, t in self.total.items()}


def _raised(value: Tensor, power: int) -> Tensor:
    return value.square() if power == 2 else value.abs()


def dense_layers(model: nn.Module) -> list[str]:
    """Return the names of the linear layers that share no weight with another module.

    The head is one of them: a class that it hides has no gradient at its output.
    """
    owners = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    return [
        name
        for name, m in model.named_modules()
        if type(m) is nn.Linear and all(owners[id(p)] == 1 for p in m.parameters(recurse=False))
    ]


def dense_pairs(
    model: nn.Module, measure: Measure, dense: Sequence[str], x: Tensor, y: Tensor, mask: Tensor | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what each linear layer was given [B, in], and the gradients of the examples' measures at its output [B, out].

    Left out are layers that saw more than one vector an example, and those that the measure has nothing to do with.
    """
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in dense}

    def watch(name: str) -> Callable[..., Tensor]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not output.requires_grad:
                output.requires_grad_()  # a frozen layer has a gradient at its output too
            seen[name].append((inputs[0].detach(), output))
            return output.clone()  # what follows may work in place; the gradient is wanted before that

        return keep

    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in dense]
    try:
        with torch.enable_grad():
            loss = measure(model(x), y, mask).sum()
    finally:
        for handle in handles:
            handle.remove()
    usable = [name for name in dense if len(seen[name]) == 1 and seen[name][0][0].ndim == 2]
    if not usable:
        return {}
    gradients = torch.autograd.grad(loss, [seen[name][0][1] for name in usable], allow_unused=True)
    return {name: (seen[name][0][0], g) for name, g in zip(usable, gradients, strict=True) if g is not None}


def _dense_sums(
    model: nn.Module,
    measure: Measure,
    power: int,
    dense: list[str],
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
) -> dict[str, Tensor]:
    """Return the sums for the linear layers that saw one vector an example.

    There the example's gradient is an outer product g a^T, so the sum of squares is (G * G)^T (A * A), and so for |G|, |A|:
    two matrices a layer where one gradient an example would be thousands of times as much memory.
    """
    sums = {}
    for name, (a, g) in dense_pairs(model, measure, dense, x, y, mask).items():
        g = _raised(g, power) if weight is None else weight[:, None] * _raised(g, power)
        sums[parameter_of(name, "weight")] = g.T @ _raised(a, power)
        if model.get_submodule(name).bias is not None:
            sums[parameter_of(name, "bias")] = g.sum(0)
    return sums


def _other_sums(
    model: nn.Module,
    measure: Measure,
    power: int,
    names: list[str],
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
) -> dict[str, Tensor]:
    """Return the sums of any parameters, through one gradient an example, in chunks."""
    sums = {n: torch.zeros_like(model.get_parameter(n)) for n in names}
    chunk = max(1, CHUNK_BYTES // (4 * max(1, sum(p.numel() for p in sums.values()))))
    for part in range(0, len(y) if names else 0, chunk):
        rows = slice(part, part + chunk)
        given = (x[rows], y[rows], None if mask is None else mask[rows])
        for name, g in example_gradients(model, measure, *given, names=names).items():
            flat = g.reshape(len(g), -1)
            if weight is not None:
                summed = weight[rows] @ _raised(flat, power)
            else:
                summed = torch.einsum("bi,bi->i", flat, flat) if power == 2 else flat.abs().sum(0)
            sums[name] += summed.view_as(sums[name])
    return sums


def example_gradients(
    model: nn.Module,
    measure: Measure,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Return each example's gradient of the measure, [B, ...], for the parameters named, all where None."""
    values = {n: p.detach() for n, p in model.named_parameters()}
    wanted = {n: v for n, v in values.items() if names is None or n in names}
    fixed = {n: v for n, v in values.items() if n not in wanted} | {n: b.detach() for n, b in model.named_buffers()}

    def of_one(weights: dict[str, Tensor], x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        logits = functional_call(model, (weights, fixed), (x[None],))
        return measure(logits, y[None], None if mask is None else mask[None]).sum()

    recurrent = any(isinstance(m, nn.RNNBase) for m in model.modules())  # has no rule for vmap
    if recurrent or model in _ONE_BY_ONE:
        return _one_by_one(model, measure, x, y, mask, list(wanted))
    of_all = vmap(grad(of_one), in_dims=(None, 0, 0, None if mask is None else 0), randomness="different")
    try:
        with sdpa_kernel(SDPBackend.MATH):  # nor have the fused kernels of attention: one call an example
            return of_all(wanted, x, y, mask)
    except RuntimeError as error:  # a model that asks its data what to do next, or has hooks that no transform can run
        if not re.search("vmap|functorch", str(error)):
            raise
        _ONE_BY_ONE.add(model)
    return _one_by_one(model, measure, x, y, mask, list(wanted))


def _one_by_one(
    model: nn.Module, measure: Measure, x: Tensor, y: Tensor, mask: Tensor | None, names: Sequence[str]
) -> dict[str, Tensor]:
    """Return the same, an example after another."""
    parameters = [model.get_parameter(name) for name in names]
    flags = [p.requires_grad for p in parameters]
    found: list[list[Tensor]] = []
    try:
        for p in parameters:
            p.requires_grad_()
        for place in range(len(y)):
            row = slice(place, place + 1)
            with torch.enable_grad():
                loss = measure(model(x[row]), y[row], None if mask is None else mask[row]).sum()
            each = torch.autograd.grad(loss, parameters, allow_unused=True)
            found.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, each, strict=True)])
    finally:
        for p, flag in zip(parameters, flags, strict=True):
            p.requires_grad_(flag)
    return {name: torch.stack([row[n] for row in found]) for n, name in enumerate(names)}
