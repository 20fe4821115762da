"""What a model is made of: its layers in their order, its blocks, its head, stages to cut it at, hidden units."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

POINTWISE = (
    nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Hardswish, nn.Identity,
)  # fmt: skip


@runtime_checkable
class Staged(Protocol):
    """A model that is its stages one after another and then its head: all that is needed to cut it anywhere.

    A stage takes what the one before it returned: a tensor, or a tuple of tensors whose first dimension is the sample.
    """

    @property
    def head(self) -> Any:
        """What makes logits [B, ...] of the last stage's output."""
        ...

    def stages(self) -> Sequence[nn.Module]:
        """Return the stages, shallow first."""
        ...


def is_staged(model: object) -> TypeGuard[Staged]:
    """Tell whether a model has `stages()` and a head; an attribute of that name which is a module is something else."""
    stages, head = getattr(model, "stages", None), getattr(model, "head", None)
    return callable(stages) and not isinstance(stages, nn.Module) and callable(head)


def packed_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers whose weights are packed constants of a few bits: they say `packed`."""
    return [module for module in model.modules() if getattr(module, "packed", False) is True]


def parameter_of(module: str, name: str) -> str:
    """Return the full name of a module's own parameter; a model that is one layer has the name ''."""
    return f"{module}.{name}" if module else name


def _says(model: nn.Module, what: str) -> bool:
    """Tell whether the model has a method of this name."""
    own = getattr(model, what, None)
    return callable(own) and not isinstance(own, nn.Module)


def piped(stages: Iterable[Any], state: Any, again: bool = False) -> Any:
    """Return what steps one after another make of a state; again: what is within them is computed again for the gradient."""
    for stage in stages:
        state = checkpoint(stage, state, use_reentrant=False) if again and torch.is_grad_enabled() else stage(state)
    return state


def run_stages(model: Staged, first: int, last: int, state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return what stages `first` to `last` make of a state, without gradients, as a tuple of tensors."""
    with torch.no_grad():
        state = piped(model.stages()[first:last], state)
    return state if isinstance(state, tuple) else (state,)


def layers(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the weighted layers in their order: module name -> full names of its own parameters.

    The order is that in which they were built, or the one that note_order saw. A parameter that several modules share
    belongs to the first.
    """
    found, known = {}, dict(model.named_parameters())
    for name, module in model.named_modules():
        own = tuple(full for p in module._parameters if (full := parameter_of(name, p)) in known)
        if own:
            found[name] = own
    order: tuple[str, ...] = getattr(model, "_order", ())
    place = {name: i for i, name in enumerate(order)}
    return dict(sorted(found.items(), key=lambda item: place.get(item[0], len(place))))  # what grew later comes last


@contextmanager
def note_order(model: nn.Module) -> Iterator[None]:
    """Note in which order the model runs its layers in the block, for a net that says nothing about itself.

    A classifier may be built first, an auxiliary layer last. What runs several times counts at its last time; a module that
    is never called itself, as those of a fused layer, counts with the one that it is a part of.
    """
    if _says(model, "blocks") or is_staged(model):
        yield
        return
    when, clock = {"": 0}, itertools.count(1)
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: when.update({name: next(clock)}))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, _ in model.named_modules()]
    for name in names:
        when.setdefault(name, when[name.rpartition(".")[0]])
    model._order = tuple(sorted(names, key=when.__getitem__))  # type: ignore[assignment]


def blocks(model: nn.Module) -> list[frozenset[str]]:
    """Return the parameter names of each block from shallow to deep, the head left out.

    A model may say what its blocks are with `blocks() -> list of module names`; otherwise each layer is one. The norms that
    follow a block are a part of it.
    """
    return [names for _, names in _named_blocks(model)]


def block_modules(model: nn.Module) -> list[str]:
    """Return the module whose output is that of each of `blocks`: what the model calls so, or its last layer or norm."""
    return [module for module, _ in _named_blocks(model)]


def _named_blocks(model: nn.Module) -> list[tuple[str, frozenset[str]]]:
    """Return each block's module and its parameters."""
    outside, known, said = head(model), [n for n, _ in model.named_parameters()], _says(model, "blocks")
    groups: dict[str, Sequence[str]] = dict(layers(model))
    if said:
        groups = {n: [p for p in known if p.startswith(f"{n}.")] for n in model.blocks()}  # type: ignore[operator]
    found: list[tuple[str, frozenset[str]]] = []
    for module, names in groups.items():
        own = frozenset(names) - outside
        if own and found and all(model.get_parameter(n).ndim < 2 for n in own):
            found[-1] = (found[-1][0] if said else module, found[-1][1] | own)
        elif own:
            found.append((module, own))
    return found


def shares_of_blocks(model: nn.Module, names: Iterable[str]) -> dict[str, float]:
    """Return which share of the parameters of each block, and of the head, is among `names`; those without any are left out."""
    sizes, chosen = {n: p.numel() for n, p in model.named_parameters()}, frozenset(names)
    groups = dict(zip(block_modules(model), blocks(model), strict=True)) | {"head": head(model)}
    return {
        name: sum(sizes.get(n, 0) for n in own & chosen) / whole
        for name, own in groups.items()
        if (whole := sum(sizes.get(n, 0) for n in own))
    }


def head(model: nn.Module) -> frozenset[str]:
    """Return the parameter names of the classifier: `model.head` where there is one, else the last layer.

    A head that shares its weight with the embedding has none of its own: that is the embedding's, and goes where that goes.
    """
    prefix = "head" if isinstance(getattr(model, "head", None), nn.Module) else list(layers(model))[-1]
    return frozenset(n for n, _ in model.named_parameters() if n.startswith(parameter_of(prefix, "")))


def parts(model: nn.Module) -> list[frozenset[str]]:
    """Return the blocks from shallow to deep, and the head where it has parameters of its own."""
    return [group for group in (*blocks(model), head(model)) if group]


def everything(model: nn.Module) -> frozenset[str]:
    """Return the names of all parameters."""
    return frozenset(n for n, _ in model.named_parameters())


@dataclass(frozen=True)
class HiddenUnits:
    """A layer of units with the layer that they feed, as module names: `layer`, its `activation`, what is `following`."""

    layer: str
    activation: str
    following: str


def hidden_units(model: nn.Module) -> list[HiddenUnits]:
    """Return the hidden layers whose units can be told apart: a linear layer, a pointwise activation, a linear layer.

    A model may say what they are with `hidden_units()`; otherwise they are found where modules stand in this order.
    """
    if _says(model, "hidden_units"):
        return list(model.hidden_units())  # type: ignore[operator]
    leaves = [(n, m) for n, m in model.named_modules() if not any(True for _ in m.children())]
    leaves = [(n, m) for n, m in leaves if not isinstance(m, nn.Dropout | nn.Identity | nn.Flatten)]
    triples = zip(leaves, leaves[1:], leaves[2:], strict=False)
    return [
        HiddenUnits(a, b, c)
        for (a, first), (b, between), (c, last) in triples
        if isinstance(first, nn.Linear) and isinstance(last, nn.Linear) and isinstance(between, POINTWISE)
        and first.out_features == last.in_features
    ]  # fmt: skip
