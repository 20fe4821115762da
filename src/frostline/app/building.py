"""The parts of a run from their sections of the configuration."""

import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from frostline.app.config import DictConfig, plain, trainer_config, without
from frostline.app.ready import check_parts
from frostline.core.checks import UsageError, one_of
from frostline.core.digests import data_digests
from frostline.core.rng import derive
from frostline.core.types import TaskStream
from frostline.costs import CostMeter, EnergyMeter, Prices
from frostline.loop.pricing import task_costs
from frostline.loop.run import Observer, Run
from frostline.records import checkpoints, weights
from frostline.records.curve import Curve
from frostline.records.tracking import tracker
from frostline.records.writer import ResultWriter
from frostline.speed.fast import Fast
from frostline.speed.layouts import with_fused, with_kernels, with_layout
from frostline.strategies.base import Strategy
from frostline.strategies.chain import Chain
from frostline.streams.suites import suite_of


def choose_device(name: str) -> torch.device:
    """Return the device asked for, 'auto' being the first GPU if there is one; UsageError where it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    one_of("trainer.device", name.split(":")[0], ("auto", "cpu", "cuda", "mps"))
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"trainer.device={name!r} is not there: {reason}. The nearest valid value is 'cpu'."
        ) from error
    return device


def build(node: DictConfig, **extra: Any) -> Any:
    """Build what the section's _target_ names; what it refuses comes out as its own error, not as Hydra's."""
    try:
        return instantiate(node, **extra)
    except InstantiationException as error:
        if isinstance(error.__cause__, UsageError):
            raise error.__cause__ from None
        raise


def build_strategy(cfg: DictConfig) -> Strategy:
    """Return the strategy, several as a chain in the order in which they were named."""
    members = [_build_member(key, node) for key, node in cfg.strategy.items()]
    return members[0] if len(members) == 1 else Chain(members)


def _build_member(key: Any, node: DictConfig) -> Strategy:
    """Build a strategy; what it refuses has the name under which it was chosen: `ties` is a form of task_arithmetic."""
    try:
        return build(node)
    except UsageError as error:
        raise UsageError(re.sub(r"^strategy\.\w+\.", f"strategy.{key}.", str(error))) from error


def build_model(node: DictConfig, stream: TaskStream) -> torch.nn.Module:
    """Return the model, with the weights of `model.weights` where that names any."""
    given = node.get("weights")
    model = build(without(node, "weights"), shape=stream.shape, classes=stream.classes)
    if given is not None:
        print(f"frostline: {weights.load_into(model, given)}")
    return model


def build_stream(cfg: DictConfig, device: torch.device) -> TaskStream:
    """Return the stream with its held-out suites."""
    stream = build(cfg.stream, seed=cfg.seed, device=str(device))
    suites = []
    for node in cfg.held_out:
        other = build(without(node, "name"), seed=cfg.seed, device=str(device))
        suites.append(suite_of(node.name, other, stream))
    return replace(stream, suites=tuple(suites)) if suites else stream


def build_run(
    cfg: DictConfig, folder: Path, device: torch.device, reporters: list[Observer], cleanup: ExitStack, among: int
) -> tuple[Run, ResultWriter]:
    """Build every part. The small ones come first: a bad setting is found before data are read."""
    config = plain(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    settings = trainer_config(cfg)
    strategy, selector, schedule = build_strategy(cfg), build(cfg.selector), build(cfg.schedule)
    prices = Prices(cfg.cost.price_per_hour, cfg.cost.electricity_price_per_kwh)
    energy = EnergyMeter(cfg.cost.country_iso_code) if cfg.cost.energy == "codecarbon" else None
    if energy is not None:
        cleanup.callback(energy.close)
    meter = CostMeter(device, prices, energy)
    with meter.phase("setup"):
        stream = build_stream(cfg, device)
        torch.manual_seed(derive(cfg.seed, "model"))
        model = build_model(cfg.model, stream).to(device)
        model = with_kernels(with_layout(model, settings.channels_last), settings.kernels, device)
        selector.prepare(model)
        torch.manual_seed(derive(cfg.seed, "training"))
    optimizer = with_fused(build(cfg.optimizer), settings.fused)
    stream = check_parts(model, stream, strategy, selector, settings, optimizer)
    writer = ResultWriter(folder, config)
    observers: list[Observer] = [
        *reporters,
        writer,
        Curve(folder),
        *tracker(cfg.tracking, folder, config, among),
    ]
    for observer in observers:
        cleanup.callback(observer.close)
    data = data_digests(stream)
    processor = torch.backends.cpu.get_cpu_capability()
    extra = {
        "config": config,
        "tasks": len(stream),
        "threads": torch.get_num_threads(),
        "processor": processor,
        "data": data,
    }
    saver = checkpoints.Saver(folder, cfg.checkpoint.delta, waits=among > 1)
    run = Run(
        model, stream, strategy, selector, optimizer, meter, settings, Fast(settings), cfg.seed, schedule,
        cfg.cost.reference_steps, lambda state: saver({**state, **extra}), observers, folder, data, saver.settle,
    )  # fmt: skip
    selector.check(model, task_costs(run, stream[0]))
    return run, writer
