"""Optimizers over what is thawed and nothing else: their state, and the rates that a selector scales."""

from collections.abc import Mapping

import torch

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
                optimizer.state[p] = {k: to_device(v, p.device) if k != "step" else v for k, v in state.items()}
    set_rates(optimizer, scope, run.change.rates)
    run.open_optimizer = optimizer
    return optimizer


def set_rates(optimizer: torch.optim.Optimizer, scope: Scope, rates: Mapping[str, float]) -> None:
    """Scale the learning rate of each parameter of the scope."""
    if rates:
        for group, name in zip(optimizer.param_groups, scope.parameters, strict=True):
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
