"""Optimizers over what is thawed and nothing else: their state, and the rates that a selector scales."""

from collections.abc import Iterable, Mapping

import torch

from frostline.core.scope import Scope
from frostline.core.tensors import tensor_bytes, to_device
from frostline.loop.lesson import Lesson
from frostline.loop.run import Run


def open_optimizer(lesson: Lesson, scope: Scope) -> torch.optim.Optimizer:
    """Return an optimizer over the scope, with the state that a checkpoint, an earlier stretch or task left."""
    run, named = lesson.run, list(scope.parameters.items())
    by_name = bool(lesson.change.rates) or isinstance(run.strategy.rates(0, lesson.total), Mapping)
    # then each parameter has a group, and so a rate, of its own
    optimizer = run.optimizer([{"params": [p]} for _, p in named] if by_name else [p for _, p in named])
    memory = run.progress.optimizer_memory
    if run.resumed_optimizer is not None:
        optimizer.load_state_dict(run.resumed_optimizer)
        run.resumed_optimizer = None
    else:
        for name, p in named:
            if name in memory:
                on_host = not optimizer.defaults.get("fused")  # where torch keeps the count of steps
                optimizer.state[p] = {
                    k: v if k == "step" and on_host else to_device(v, p.device) for k, v in memory[name].items()
                }
    set_rates(optimizer, lesson, scope.parameters)
    run.open_optimizer = optimizer
    return optimizer


def rates_change(lesson: Lesson) -> bool:
    """Tell whether the learning rates are others at every step."""
    return not lesson.run.schedule.constant or lesson.run.strategy.uses("rates")


def set_rates(optimizer: torch.optim.Optimizer, lesson: Lesson, names: Iterable[str]) -> float:
    """Multiply the rates of the schedule, the selector and the strategy, at the run's step; return what is common to all.

    The optimizer has the parameters in the order of `names`, each in a group of its own where rates go by name.
    """
    run, progress, named = lesson.run, lesson.run.progress, lesson.change.rates
    whole = run.schedule(progress.step, lesson.total, lesson.task.index, len(run.stream))
    own = run.strategy.rates(progress.step, lesson.total) if run.strategy.uses("rates") else 1.0
    if isinstance(own, Mapping):
        named = {name: own.get(name, 1.0) * named.get(name, 1.0) for name in names}
    else:
        whole *= own
    if named:
        for group, name in zip(optimizer.param_groups, names, strict=True):
            group["lr"] = optimizer.defaults["lr"] * (named.get(name, 1.0) * whole)
    else:
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * whole
    return whole


def close_optimizer(lesson: Lesson, scope: Scope) -> None:
    """Keep what goes on: the state of the parameters that stay thawed, of all where trainer.optimizer_state=keep."""
    run, optimizer = lesson.run, lesson.run.open_optimizer
    assert optimizer is not None
    staying = frozenset() if lesson.done else lesson.change.names
    _note_bytes(run, scope, optimizer)
    states = {name: dict(optimizer.state[p]) for name, p in scope.parameters.items() if p in optimizer.state}
    if run.settings.optimizer_state == "keep":
        run.progress.optimizer_memory.update(states)
    else:
        run.progress.optimizer_memory = {name: state for name, state in states.items() if name in staying}
    run.open_optimizer = None


def _note_bytes(run: Run, scope: Scope, optimizer: torch.optim.Optimizer) -> None:
    """Note the bytes of gradients and optimizer state of this task, at its dearest, beside what training all would hold.

    What a full scope's optimizer would keep follows from this one's bytes a parameter.
    """
    gradients = sum(p.numel() * p.element_size() for p in scope.parameters.values())
    whole = sum(p.numel() * p.element_size() for p in run.model.parameters())
    state = tensor_bytes([optimizer.state[p] for p in scope.parameters.values() if p in optimizer.state])
    now = {
        "task": run.progress.task,
        "gradient_bytes": gradients,
        "optimizer_bytes": state,
        "full_gradient_bytes": whole,
        "full_optimizer_bytes": round(state * whole / gradients),
    }
    notes = run.progress.state_bytes
    if notes and notes[-1]["task"] == run.progress.task:
        now = {key: max(value, notes[-1][key]) for key, value in now.items()}
        notes.pop()
    notes.append(now)
