"""One run from its configuration: build the parts, train, and leave the results in the run's folder."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from frostline import checkpoints, results
from frostline.augmentation import Augmentation
from frostline.checks import UsageError, one_of
from frostline.config import DictConfig, check, differences, plain
from frostline.costs import CostMeter, EnergyMeter, Prices
from frostline.evaluation import evaluation_data
from frostline.prefix import check_settings
from frostline.report.figures import run_figures
from frostline.report.terminal import TerminalReport
from frostline.rng import derive
from frostline.run import Observer, Run, Settings
from frostline.scope import everything
from frostline.stepping import task_costs
from frostline.strategies import Chain, Strategy
from frostline.tracking import tracker
from frostline.training import run_stream

MAY_CHANGE = (  # on a resume: what decides where and how fast, not what is learned
    "trainer.device", "trainer.threads", "trainer.checkpoint_every_s", "trainer.prefix_cache_gib", "tracking",
    "checkpoint", "cost.reference_steps", "stream.data_root", "stream.download",
)  # fmt: skip


def execute(cfg: DictConfig, folder: Path, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train as `cfg` says, from the start or from a checkpoint's `state`; return the content of result.json."""
    check(cfg)
    config = plain(cfg)
    device = choose_device(cfg.trainer.device)
    if cfg.trainer.threads is not None:
        torch.set_num_threads(cfg.trainer.threads)
    with ExitStack() as cleanup:
        run, writer = _build(cfg, config, device, folder, cleanup)
        if state is not None:
            run.load_state_dict(state)
        try:
            run_stream(run)
        except BaseException as error:
            writer.write(run, "failed", f"{type(error).__name__}: {error}")
            raise
        content = writer.write(run, "complete")
        run_figures(folder, content)
        for observer in run.observers:
            observer.finished(content, folder)
    return content


def resume(cfg: DictConfig, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Go on with the run in `folder`, under the configuration it was started with."""
    state = checkpoints.load(folder)
    stored = DictConfig(state["config"])
    given = [o.lstrip("+~").partition("=")[0] for o in overrides if not o.startswith("resume=")]
    if "seed" not in given:
        cfg.seed = stored.seed  # what is interpolated from it is no difference
    found = differences(state["config"], plain(cfg))
    for key in given:
        if key.startswith(MAY_CHANGE):
            OmegaConf.update(stored, key, OmegaConf.select(cfg, key), force_add=True)
            continue
        for path, (old, new) in found.items():
            if path.startswith(key) or (key == "experiment" and not path.startswith(("resume", *MAY_CHANGE))):
                raise UsageError(
                    f"resume={str(folder)!r}: that run was started with {path}={old!r}, not {new!r}. Leave {key} out to "
                    "go on with it, or start a new run without resume."
                )
    if state["position"][0] >= state["tasks"]:
        print(f"frostline: the run in {folder} is already complete.")
        return results.read(folder)
    return execute(stored, folder, state)


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
    members = [build(node) for node in cfg.strategy.values()]
    return members[0] if len(members) == 1 else Chain(members)


def _build(
    cfg: DictConfig, config: dict[str, Any], device: torch.device, folder: Path, cleanup: ExitStack
) -> tuple[Run, "ResultWriter"]:
    """Build every part. The small ones come first: a bad setting is found before data are read."""
    settings = _settings(cfg)
    strategy, selector = build_strategy(cfg), build(cfg.selector)
    prices = Prices(cfg.cost.price_per_hour, cfg.cost.electricity_price_per_kwh)
    energy = EnergyMeter(cfg.cost.country_iso_code) if cfg.cost.energy == "codecarbon" else None
    if energy is not None:
        cleanup.callback(energy.close)
    meter = CostMeter(device, prices, energy)
    with meter.phase("setup"):
        stream = build(cfg.stream, seed=cfg.seed, device=str(device))
        torch.manual_seed(derive(cfg.seed, "model"))
        model = build(cfg.model, shape=stream.shape, classes=stream.classes).to(device)
        selector.prepare(model)
        torch.manual_seed(derive(cfg.seed, "training"))
    check_settings(settings, model)
    Augmentation(settings.augment)(next(iter(stream[0].train.batches(1))).x)  # refuses samples that are no images
    evaluation_data(stream[0], settings.evaluate_on)
    optimizer = build(cfg.optimizer)
    optimizer(list(model.parameters()))  # refuses its own bad settings here, not after an hour
    writer = ResultWriter(folder, config)
    observers: list[Observer] = [
        TerminalReport(" + ".join(config["strategy"])),
        writer,
        *tracker(cfg.tracking, folder, config),
    ]
    for observer in observers:
        cleanup.callback(observer.close)
    save = _saver(folder, cfg.checkpoint.delta, {"config": config, "tasks": len(stream)})
    run = Run(model, stream, strategy, selector, optimizer, meter, settings, save, observers, folder)
    selector.check(model, task_costs(run, stream[0]))
    return run, writer


def _settings(cfg: DictConfig) -> Settings:
    known = {f.name for f in fields(Settings)}
    given = {k: v for k, v in cfg.trainer.items() if k in known}
    return Settings(**given, reference_steps=cfg.cost.reference_steps, seed=cfg.seed)  # type: ignore[arg-type]


def _saver(folder: Path, delta: bool, extra: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    save = checkpoints.Saver(folder, delta)
    return lambda state: save({**state, **extra})


class ResultWriter(Observer):
    """Write result.json and its spreadsheets at the start and after every task."""

    def __init__(self, folder: Path, config: dict[str, Any]):
        self.folder = folder
        self.config = config

    def started(self, run: Run) -> None:
        """Check for room and leave a result that says `running`."""
        if shutil.disk_usage(self.folder).free < 2**27:
            raise UsageError(f"{self.folder}: less than 128 MiB are free on this disk; results could not be written.")
        self.write(run, "running")

    def task_done(self, run: Run, index: int) -> None:
        """Write what is known after task `index`."""
        self.write(run, "running")

    def write(self, run: Run, status: str, error: str | None = None) -> dict[str, Any]:
        """Write and return the result as it stands."""
        sizes = {row.trainable_parameters for row in run.meter.rows if row.phase == "train"}
        whole = sizes <= {sum(p.numel() for n, p in run.model.named_parameters() if n in everything(run.model))}
        reference = run.reference.seconds_per_sample if run.reference else None
        content = results.result(
            status=status,
            config=self.config,
            device=run.device,
            stream=run.stream,
            accuracy=run.accuracy,
            meter=run.meter,
            full=results.against_full(run.meter, run.full_flops, reference, whole),
            error=error,
            training_state=run.state_bytes,
            prefix_cache=run.cache_notes,
        )
        results.write(self.folder, content)
        return content
