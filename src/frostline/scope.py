"""Scope: the model and the names of the parameters that this task may change."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from frostline.checks import UsageError, nearest


@runtime_checkable
class Staged(Protocol):
    """A model that is its stages one after another and then its head: all that is needed to cut it anywhere.

    A stage takes what the one before it returned: a tensor, or a tuple of tensors whose first dimension is the sample.
    """

    @property
    def head(self) -> Any:
        """What makes logits [B, C] of (the last stage's output, visible)."""
        ...

    def stages(self) -> Sequence[nn.Module]:
        """Return the stages, shallow first."""
        ...


def run_stages(model: Staged, first: int, last: int, state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return what stages `first` to `last` make of a state, without gradients, as a tuple of tensors."""
    with torch.no_grad():
        for stage in model.stages()[first:last]:
            state = stage(state)
    return state if isinstance(state, tuple) else (state,)


def layers(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the weighted layers in the order they were built: module name -> full names of its own parameters.

    A parameter that several modules share belongs to the first.
    """
    found, known = {}, dict(model.named_parameters())
    for name, module in model.named_modules():
        own = tuple(full for p in module._parameters if (full := f"{name}.{p}" if name else p) in known)
        if own:
            found[name] = own
    return found


def blocks(model: nn.Module) -> list[frozenset[str]]:
    """Return the parameter names of each block from shallow to deep, the head left out.

    A model may say what its blocks are with `blocks() -> list of module names`; otherwise each layer is one.
    """
    names = model.blocks() if hasattr(model, "blocks") else list(layers(model))  # type: ignore[operator]
    outside = head(model)
    parameters = [n for n, _ in model.named_parameters() if n not in outside]
    groups = [frozenset(p for p in parameters if p.startswith(f"{name}.")) for name in names]
    return [group for group in groups if group]


def head(model: nn.Module) -> frozenset[str]:
    """Return the parameter names of the classifier: `model.head` where there is one, else the last layer."""
    prefix = "head" if hasattr(model, "head") else list(layers(model))[-1]
    return frozenset(n for n, _ in model.named_parameters() if n.startswith(f"{prefix}."))


def everything(model: nn.Module) -> frozenset[str]:
    """Return the names of all parameters."""
    return frozenset(n for n, _ in model.named_parameters())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode for the block, then give every module its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class Scope:
    """What a strategy can train, and nothing else.

    `parameters` maps the full names of the thawed parameters to the parameters themselves, in the model's order.
    """

    def __init__(self, model: nn.Module, names: frozenset[str]):
        known = dict(model.named_parameters())
        for name in names - known.keys():
            raise UsageError(f"The model has no parameter {name!r}.{nearest(name, known)}")
        if not names:
            raise UsageError("The selector chose no parameters at all: there is nothing to train.")
        self.model = model
        self.names = names
        self.parameters = {name: p for name, p in known.items() if name in names}

    @property
    def size(self) -> int:
        """Number of trainable scalars."""
        return sum(p.numel() for p in self.parameters.values())

    @contextmanager
    def thawed(self) -> Iterator["Scope"]:
        """Freeze everything else for the block: no gradient, and frozen batch-norm statistics stand still.

        Gradients are switched off before any forward pass, since switched off after it they save nothing.
        """
        flags = [(p, p.requires_grad) for p in self.model.parameters()]
        with evaluating(self.model):
            for name, p in self.model.named_parameters():
                p.requires_grad_(name in self.names)
                p.grad = None
            self.model.train()
            for module in _frozen_norms(self.model):
                module.eval()
            try:
                yield self
            finally:
                for p, flag in flags:
                    p.requires_grad_(flag)
                    p.grad = None


def _frozen_norms(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules whose running statistics must not move: none of their parameters is thawed.

    A norm without parameters of its own follows the nearest module around it that has some.
    """
    for name, module in model.named_modules():
        if "running_mean" not in module._buffers:
            continue
        owner = module
        while name and not any(True for _ in owner.parameters()):
            name = name.rpartition(".")[0]
            owner = model.get_submodule(name)
        if not any(p.requires_grad for p in owner.parameters()):
            yield module
