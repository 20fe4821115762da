"""Scope: the model and the names of the parameters that this task may change."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from frostline.core.checks import UsageError, nearest
from frostline.core.structure import parameter_of


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode for the block, then give every module its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    if any(training for _, training in modes):
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            if module.training != training:  # setting a module's attribute takes longer than looking
                module.training = training


class Scope:
    """What a strategy can train, and nothing else.

    `parameters` maps the full names of the thawed parameters to the parameters themselves, in the model's order.
    """

    def __init__(self, model: nn.Module, names: frozenset[str]):
        known = dict(model.named_parameters())
        for name in names - known.keys():
            raise UsageError(f"The model has no parameter {name!r}.{nearest(name, known)}")
        self.model = model
        self.names = names
        self.parameters = {name: p for name, p in known.items() if name in names}

    @property
    def size(self) -> int:
        """Number of trainable scalars."""
        return sum(p.numel() for p in self.parameters.values())

    def snapshot(self, known: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return `known` with copies of what may move from here on and is not in it: thawed parameters, running statistics.

        Taken whenever something thaws, it grows to all that has moved since the first was taken, as it was then.
        """
        tensors: dict[str, Tensor] = {name: p.detach() for name, p in self.parameters.items()}
        for name, module in self.model.named_modules():
            if "running_mean" in module._buffers and module.training:
                tensors |= {parameter_of(name, n): b for n, b in module._buffers.items() if b is not None}
        fresh = {name: t.clone() for name, t in tensors.items() if known is None or name not in known}
        return {**(known or {}), **fresh}

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
            for module in frozen_norms(self.model):
                module.eval()
            try:
                yield self
            finally:
                for p, flag in flags:
                    p.requires_grad_(flag)
                    p.grad = None


def tensors_of(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the model's own parameters and buffers of these names."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: own[name] for name in names}


def stop_statistics(model: nn.Module) -> None:
    """Let the running statistics of norms that are about to learn stand still; Scope.thawed gives them their mode back."""
    for module in model.modules():
        if "running_mean" in module._buffers:
            module.eval()


@contextmanager
def statistics_held(model: nn.Module) -> Iterator[None]:
    """Put the running statistics of norms that learn back to what they were, after the block."""
    norms = [m for m in model.modules() if "running_mean" in m._buffers and m.training]
    kept = [(b, b.clone()) for m in norms for b in m.buffers(recurse=False)]
    try:
        yield
    finally:
        for b, value in kept:
            b.copy_(value)


@contextmanager
def holding(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the model hold other values in the parameters and buffers named, for the block; shapes stay."""
    own = tensors_of(model, tensors)
    kept = {name: t.data for name, t in own.items()}
    for name, value in tensors.items():
        own[name].data = value.to(kept[name].device, kept[name].dtype)
    try:
        yield
    finally:
        for name, value in kept.items():
            own[name].data = value


@contextmanager
def with_head(model: nn.Module, head: nn.Module) -> Iterator[None]:
    """Let another module make the logits of what `model.head` is given, for the block."""
    own = model.head
    model.head = head
    try:
        yield
    finally:
        model.head = own


def frozen_norms(model: nn.Module) -> Iterator[nn.Module]:
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
