"""From Python: a run without a command line, and what it leaves as data frames."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from frostline.app.building import build
from frostline.app.config import compose_config, options_of
from frostline.app.ready import check_model, check_parts, logits_of
from frostline.core.checks import UsageError, in_range, nearest, one_of
from frostline.core.digests import data_digests
from frostline.core.rng import derive
from frostline.core.scope import Scope
from frostline.core.sources import MemorySource
from frostline.core.types import Batch, Task, TaskStream
from frostline.costs import CostMeter, Prices, StepCosts, TaskCosts
from frostline.loop.precision import set_precision
from frostline.loop.pricing import task_costs
from frostline.loop.run import Run
from frostline.loop.schedules import Schedule
from frostline.loop.settings import TrainerConfig
from frostline.loop.training import run_stream
from frostline.records.curve import Curve
from frostline.records.writer import contents_of
from frostline.report.bar import Bar
from frostline.report.result import Result
from frostline.selectors.base import Selector
from frostline.speed.fast import Fast
from frostline.speed.layouts import with_fused, with_kernels, with_layout
from frostline.strategies.base import Strategy
from frostline.strategies.chain import Chain
from frostline.streams.own import from_tasks

OPTIMIZERS: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def run(
    model: nn.Module,
    stream: TaskStream | str | Sequence[Any],
    strategy: str | Strategy | Sequence[str | Strategy] = "finetune",
    selector: str | Selector | None = None,
    *,
    optimizer: str | Callable[..., torch.optim.Optimizer] = "sgd",
    lr: float = 0.05,
    schedule: str | Schedule = "constant",
    seed: int = 0,
    price_per_hour: float = 0.0,
    reference_steps: int = 3,
    progress: bool = True,
    **trainer: Any,
) -> Result:
    """Teach a copy of the model one task after another; return what it learned, forgot and cost.

    model: any nn.Module from samples [B, ...] to logits [B, C], on the device where it is to learn; the original stays as
    it is. stream: a TaskStream, the name of one of frostline's, or a list of (train, test) as streams.from_tasks takes it.
    strategy, selector: a name, with the settings of its YAML, or an object, of which a copy is used; several strategies are
    a chain; without a selector everything trains. optimizer: a name, with `lr`, or what makes one of a list of parameters.
    trainer: settings of the section trainer, such as epochs=5, batch_size=64. Nothing is written; Result.save does. UsageError
    for what cannot be.
    """
    settings = TrainerConfig(**{"compile": "off", "kernels": "off", **_known(trainer)})
    settings.check()
    in_range("seed", seed, 0, whole=True)
    in_range("lr", lr, 0, above=True)
    in_range("reference_steps", reference_steps, 0, whole=True)
    check_model(model)
    device = next(model.parameters()).device
    set_precision(settings.precision, device)
    stream = _stream(stream, seed, device)
    members, rule = methods_of(strategy, selector, seed)
    method = members[0] if len(members) == 1 else Chain(members)
    pace = _object(schedule, "schedule", seed, Schedule)
    net = with_kernels(with_layout(copy.deepcopy(model), settings.channels_last), settings.kernels, device)
    rule.prepare(net)
    step = with_fused(_optimizer(optimizer, lr), settings.fused)
    stream = check_parts(net, stream, method, rule, settings, step)
    curve, bar = Curve(), [Bar()] if progress else []
    meter = CostMeter(device, Prices(price_per_hour))
    this = Run(
        net, stream, method, rule, step, meter, settings, Fast(settings), seed, pace, reference_steps, None, [curve, *bar]
    )  # fmt: skip
    this.data = data_digests(stream)
    rule.check(net, task_costs(this, stream[0]))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive(seed, "training"))
        try:
            run_stream(this)
        finally:
            for observer in bar:
                observer.close()
    config = {
        "seed": seed,
        "strategy": {_name(member): None for member in members},
        "selector": {"_target_": _name(rule)},
        "model": {"_target_": type(model).__name__},
        "optimizer": {"_target_": getattr(step, "func", step).__name__, "lr": lr},
        "stream": {"_target_": stream.name},
        "trainer": vars(settings),
    }
    return Result(contents_of(this, config, "complete"), net, curve.rows)


def select(
    model: nn.Module,
    selector: str | Selector,
    data: Any,
    *,
    epochs: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    **task: Any,
) -> Scope:
    """Return what a rule would thaw for these data, as a scope for a loop of one's own: `with scope.thawed(): ...`.

    data: (x, y), on the model's device. task: further fields of core.types.Task, such as objective=.
    """
    device, objective = next(model.parameters()).device, task.get("objective", "classification")
    given = from_tasks([(data, data)], device=device, objective=objective)[0].train
    x, y = (getattr(next(iter(given.batches(len(given)))), part) for part in ("x", "y"))
    batch = Batch(x, y, torch.zeros(len(y), dtype=torch.int64, device=y.device), torch.arange(len(y), device=y.device))
    source = MemorySource(batch)
    this = Task(0, "own", (), source, source, **task)
    rule = _object(selector, "selector", seed, Selector)
    rule.warmup_tasks = 0
    rule.prepare(model)
    logits_of(model, x[:2])
    costs = TaskCosts(lambda: StepCosts.trace(model, x[:batch_size]), epochs, len(y))
    rule.check(model, costs)
    return Scope(model, rule(model, this, costs))


def _known(trainer: dict[str, Any]) -> dict[str, Any]:
    known = [key for key in vars(TrainerConfig()) if key not in ("seeds", "device", "threads")]
    for key in trainer:
        if key == "device":
            raise UsageError(
                "run(device=...): the model learns where it is. Expected model.to(device), and data there too."
            )
        if key in ("seeds", "threads"):
            more = "call run once for each seed" if key == "seeds" else "torch.set_num_threads"
            raise UsageError(f"run({key}=...) is for the command line. From Python: {more}.")
        if key not in known:
            raise UsageError(f"run({key}=...): there is no such setting.{nearest(key, known)}")
    return trainer


def _stream(given: Any, seed: int, device: torch.device) -> TaskStream:
    if isinstance(given, str):
        one_of("stream", given, options_of("stream"))
        section = compose_config(f"stream={given}", f"seed={seed}").stream
        if missing := OmegaConf.missing_keys(section):
            raise UsageError(
                f"stream={given!r} wants to be told its {', '.join(sorted(missing))}. "
                f"Expected a stream, as {section._target_} returns it."
            )
        return build(section, seed=seed, device=str(device))
    if isinstance(given, TaskStream):
        return given
    return from_tasks(given, device=device)


def methods_of(strategy: Any, selector: Any, seed: int) -> tuple[list[Strategy], Selector]:
    """Return the members of the strategy, and the selector."""
    chosen = list(strategy) if isinstance(strategy, list | tuple) else [strategy]
    members = [member for each in chosen for member in _strategies(each, seed)]
    if not members:
        raise UsageError("strategy=[]: expected at least one, such as 'finetune'.")
    if selector is None:  # `partial` brings one of its own
        selector = "last_k" if "partial" in chosen else "everything"
    return members, _object(selector, "selector", seed, Selector)


def _strategies(given: Any, seed: int) -> list[Strategy]:
    if isinstance(given, Strategy):
        return [copy.deepcopy(given)]
    if not isinstance(given, str):
        raise UsageError(f"strategy: expected a name or a Strategy, not {type(given).__name__}.")
    one_of("strategy", given, options_of("strategy"))
    return [build(node) for node in compose_config(f"strategy={given}", f"seed={seed}").strategy.values()]


def _object(given: Any, group: str, seed: int, kind: type) -> Any:
    """Return what a name stands for, or a copy of an object."""
    if isinstance(given, str):
        one_of(group, given, options_of(group))
        return build(compose_config(f"{group}={given}", f"seed={seed}")[group])
    if not isinstance(given, kind):
        raise UsageError(f"{group}: expected a name or a {kind.__name__}, not {given!r:.60}.")
    return copy.deepcopy(given)


def _optimizer(given: Any, lr: float) -> Any:
    if isinstance(given, type):
        return partial(given, lr=lr)
    if callable(given):
        return given
    if given not in OPTIMIZERS:
        raise UsageError(f"optimizer={given!r}: expected one of {', '.join(OPTIMIZERS)}.{nearest(given, OPTIMIZERS)}")
    return partial(OPTIMIZERS[given], lr=lr)


def _name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__name__}".rpartition(".")[2].lower()
