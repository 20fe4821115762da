"""Hidden units: what they put out, and how one begins again."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError
from frostline.core.step import Step
from frostline.core.structure import HiddenUnits, head, hidden_units


def needs_hidden_units(name: str, model: nn.Module) -> None:
    """Raise UsageError for a model whose units cannot be told apart."""
    if not hidden_units(model):
        raise UsageError(
            f"strategy={name}: {type(model).__name__} has no hidden layer that it knows (linear, activation, "
            "linear). Expected such a net, as model=mlp, or one with a method hidden_units()."
        )


def needs_perceptron(name: str, model: nn.Module) -> None:
    """Raise UsageError for a model that has more to it than linear layers with hidden units between them, and a head."""
    needs_hidden_units(name, model)
    covered = {f"{unit.layer}.{kind}" for unit in hidden_units(model) for kind in ("weight", "bias")} | head(model)
    other = sorted({name for name, _ in model.named_parameters()} - covered)
    if other:
        raise UsageError(
            f"strategy={name}: {type(model).__name__} has parameters outside its hidden units and its head, "
            f"{', '.join(other[:3])} among them. Expected a perceptron, as model=mlp; packnet takes any net."
        )


@contextmanager
def at_activations(model: nn.Module, look: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Call look(layer, output) for each hidden layer at every forward pass; what it returns takes the output's place."""
    with ExitStack() as stack:
        for units in hidden_units(model):

            def hook(module: nn.Module, inputs: Any, output: Tensor, layer: str = units.layer) -> Tensor | None:
                return look(layer, output)

            stack.callback(model.get_submodule(units.activation).register_forward_hook(hook).remove)
        yield


@contextmanager
def activations(model: nn.Module, into: dict[str, Tensor]) -> Iterator[None]:
    """Put what each hidden layer puts out, [rows, units] by the layer's name, into a dictionary at every forward pass."""

    def keep(layer: str, output: Tensor) -> None:
        into[layer] = output.detach().flatten(0, -2)

    with at_activations(model, keep):
        yield


def training_units(step: Step, seen: dict[str, Tensor]) -> Iterator[tuple[HiddenUnits, Tensor]]:
    """Yield the hidden layers whose weights before and after them train, with what they put out."""
    for units in hidden_units(step.scope.model):
        names = [f"{module}.weight" for module in (units.layer, units.following)]
        if units.layer in seen and all(name in step.scope.names for name in names):
            yield units, seen[units.layer]


def renew(step: Step, units: HiddenUnits, which: Tensor, rng: torch.Generator) -> None:
    """Let units begin again: incoming weights drawn anew, bias and outgoing weights 0, optimizer's state too."""
    layer, scope = units.layer, step.scope
    weight, outgoing = scope.parameters[f"{layer}.weight"], scope.parameters[f"{units.following}.weight"]
    bound = weight.shape[1] ** -0.5  # of torch's own initial weights of a linear layer
    fresh = (torch.rand(len(which), weight.shape[1], generator=rng) * 2 - 1) * bound
    weight.data[which] = fresh.to(weight)
    outgoing.data[:, which] = 0.0
    if f"{layer}.bias" in scope.parameters:
        scope.parameters[f"{layer}.bias"].data[which] = 0.0
    for name, rows in ((f"{layer}.weight", True), (f"{layer}.bias", True), (f"{units.following}.weight", False)):
        for value in step.state(name).values() if name in scope.parameters else ():
            if isinstance(value, Tensor) and value.shape == scope.parameters[name].shape:
                value[(which if rows else (slice(None), which))] = 0.0
