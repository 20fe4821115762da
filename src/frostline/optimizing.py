"""Optimizers over what is thawed and nothing else: their state, and the rates that a selector scales."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from frostline.memory import tensor_bytes
from frostline.run import Run, to_device
from frostline.scope import Scope


def open_optimizer(run: Run, scope: Scope) -> torch.optim.Optimizer:
    """Return an optimizer over the scope, with the state that a checkpoint, an earlier stretch or task left."""
    assert run.change is not None
    named = list(scope.parameters.items())
    scaled = bool(run.change.rates)  # then each parameter has a group, and so a rate, of its own
    optimizer = run.optimizer([{"params": [p]} for _, p in named] if scaled else [p for _, p in named])
    if run.resumed_optimizer is not None:
        optimizer.load_state_dict(run.resumed_optimizer)
        run.resumed_optimizer = None
    else:
        for name, p in named:
            if name in run.optimizer_memory:
                state = run.optimizer_memory[name]
                on_host = not optimizer.defaults.get("fused")  # where torch keeps the count of steps
                optimizer.state[p] = {
                    k: v if k == "step" and on_host else to_device(v, p.device) for k, v in state.items()
                }
    set_rates(optimizer, scope.parameters, run.change.rates)
    run.open_optimizer = optimizer
    return optimizer


def set_rates(optimizer: torch.optim.Optimizer, names: Iterable[str], rates: Mapping[str, float]) -> None:
    """Scale the learning rates of the parameters, which the optimizer has in the order of `names`."""
    if rates:
        for group, name in zip(optimizer.param_groups, names, strict=True):
            group["lr"] = optimizer.defaults["lr"] * rates.get(name, 1.0)


def close_optimizer(run: Run, scope: Scope, staying: frozenset[str]) -> None:
    """Keep what goes on: the state of the parameters `staying` thawed, of all where trainer.optimizer_state=keep."""
    optimizer = run.open_optimizer
    assert optimizer is not None
    _note_bytes(run, scope, optimizer)
    states = {name: dict(optimizer.state[p]) for name, p in scope.parameters.items() if p in optimizer.state}
    if run.settings.optimizer_state == "keep":
        run.optimizer_memory.update(states)
    else:
        run.optimizer_memory = {name: state for name, state in states.items() if name in staying}
    run.open_optimizer = None


def stack_optimizers(
    factory: Callable[..., torch.optim.Optimizer],
    optimizers: Sequence[torch.optim.Optimizer],
    scopes: Sequence[Scope],
    stacked: Mapping[str, Tensor],
) -> torch.optim.Optimizer:
    """Return one optimizer over the stacked parameters [S, ...] that goes on from the state of S equal ones.

    Every update that works element by element is the same on a stack; one that takes a norm over a tensor would mix seeds.
    """
    first = optimizers[0]
    names = list(scopes[0].parameters)
    grouped = len(first.param_groups) > 1
    together = factory([{"params": [stacked[n]]} for n in names] if grouped else [stacked[n] for n in names])
    for group, old in zip(together.param_groups, first.param_groups, strict=True):
        group.update({key: value for key, value in old.items() if key != "params"})
    for name in names:
        states = [o.state[s.parameters[name]] for o, s in zip(optimizers, scopes, strict=True)]
        shape = scopes[0].parameters[name].shape
        for key, value in states[0].items():
            whole = isinstance(value, Tensor) and value.shape == shape
            together.state[stacked[name]][key] = torch.stack([state[key] for state in states]) if whole else value
    return together


def unstack_optimizer(
    together: torch.optim.Optimizer,
    own: torch.optim.Optimizer,
    scope: Scope,
    place: int,
    stacked: Mapping[str, Tensor],
) -> None:
    """Give one of the S optimizers its part of the common state."""
    for name, p in scope.parameters.items():
        own.state[p] = {
            key: value[place] if isinstance(value, Tensor) and value.shape == stacked[name].shape else value
            for key, value in together.state[stacked[name]].items()
        }
    for group, other in zip(own.param_groups, together.param_groups, strict=True):
        group["lr"] = other["lr"]


def _note_bytes(run: Run, scope: Scope, optimizer: torch.optim.Optimizer) -> None:
    """Note the bytes of gradients and optimizer state of this task, at its dearest, beside what training all would hold.

    What a full scope's optimizer would keep follows from this one's bytes a parameter.
    """
    gradients = sum(p.numel() * p.element_size() for p in scope.parameters.values())
    whole = sum(p.numel() * p.element_size() for p in run.model.parameters())
    state = tensor_bytes([optimizer.state[p] for p in scope.parameters.values() if p in optimizer.state])
    now = {
        "task": run.task,
        "gradient_bytes": gradients,
        "optimizer_bytes": state,
        "full_gradient_bytes": whole,
        "full_optimizer_bytes": round(state * whole / gradients),
    }
    if run.state_bytes and run.state_bytes[-1]["task"] == run.task:
        now = {key: max(value, run.state_bytes[-1][key]) for key, value in now.items()}
        run.state_bytes.pop()
    run.state_bytes.append(now)
