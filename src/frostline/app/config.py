"""The configuration: its schema, and the checks that come before anything is built.

Nothing here imports torch, so that `--help` and a mistyped override answer at once.
"""

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from frostline.app.targets import check_target, plain
from frostline.core.checks import UsageError, in_range, nearest, one_of
from frostline.core.peaks import PEAKS, peak
from frostline.loop.settings import TrainerConfig

MAY_CHANGE = (  # on a resume: what decides where and how fast, not what is learned
    "trainer.device", "trainer.threads", "trainer.checkpoint_every_s", "trainer.prefix_cache_gib", "tracking",
    "checkpoint", "figures", "overwrite", "cost.reference_steps", "stream.data_root", "stream.download", "stream.workers",
)  # fmt: skip
BUILT = (
    "stream",
    "model",
    "selector",
    "optimizer",
    "schedule",
)  # sections with a _target_; `strategy` holds one for each member


@dataclass
class CostConfig:
    """What the bill counts and charges."""

    price_per_hour: float = 0.0
    electricity_price_per_kwh: float = 0.0
    energy: str = "off"
    country_iso_code: str = "USA"
    reference_steps: int = 3
    device: str | None = None
    utilisation: float = 0.4
    watts: float | None = None
    carbon_g_per_kwh: float | None = None
    priced_on: str | None = None
    source: str | None = None


@dataclass
class CheckpointConfig:
    """What a checkpoint holds."""

    delta: bool = False
    other_data: bool = False


@dataclass
class TrackingConfig:
    """Where results go beside the local files."""

    name: str = "none"
    project: str = "frostline"
    entity: str | None = None
    mode: str = "offline"
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class RunConfig:
    """One run."""

    seed: int = 0
    resume: str | None = None
    overwrite: bool = False
    figures: list[str] = field(default_factory=lambda: ["png"])
    stream: Any = None
    model: Any = None
    strategy: Any = None
    selector: Any = None
    optimizer: Any = None
    schedule: Any = None
    held_out: list[Any] = field(default_factory=list)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def register() -> None:
    """Make the schema known to Hydra; conf/config.yaml names it first in its defaults."""
    from hydra.core.config_store import ConfigStore

    OmegaConf.register_new_resolver("warmup", _warmup, replace=True)
    ConfigStore.instance().store(name="run_schema", node=RunConfig)


def _warmup(*, _root_: Any) -> int:
    """Return how many tasks train everything before a selector chooses: a net that was trained before needs none."""
    model = _root_.get("model") or {}
    return 0 if any(model.get(key) for key in ("pretrained", "checkpoint", "weights")) else 1


def conf_dir() -> Path:
    """Return the folder of YAML files: inside the wheel, or beside src/ in a checkout."""
    return _shipped("conf", "conf")


def papers_dir() -> Path:
    """Return the folder of papers' protocols: inside the wheel, or in benchmarks/ of a checkout."""
    return _shipped("papers", "benchmarks/papers")


def _shipped(inside: str, beside: str) -> Path:
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / inside, here.parents[3] / beside):
        if folder.is_dir():
            return folder
    raise UsageError(f"frostline's {inside}/ folder is missing: expected it in {here.parents[1]} or its checkout.")


def key_of(override: str) -> str:
    """Return what an argument of the command line sets."""
    return override.lstrip("+~").partition("=")[0]


def check(cfg: DictConfig) -> None:
    """Refuse what cannot work, before data are read or anything is built."""
    known = [f.name for f in dataclasses.fields(RunConfig)]
    for key in cfg:
        if key not in known:
            raise UsageError(f"{key}: there is no such setting.{nearest(key, known)} Known keys: {', '.join(known)}.")
    for section, kind in typing.get_type_hints(RunConfig).items():
        if dataclasses.is_dataclass(kind):  # what `+` adds, Hydra lets pass
            own = [f.name for f in dataclasses.fields(kind)]
            for key in cfg[section]:
                if key not in own:
                    raise UsageError(f"{section}.{key}: there is no such setting.{nearest(key, own)}")
    _refuse_nan("", plain(cfg))
    for section in BUILT:
        own = isinstance(cfg[section], DictConfig) and section == "model"
        check_target(section, without(cfg[section], "weights") if own else cfg[section])
    if not cfg.strategy:
        raise UsageError("strategy=[]: expected at least one strategy, such as strategy=finetune.")
    for name, node in cfg.strategy.items():
        check_target(f"strategy.{name}", node)
    given = cfg.model.get("weights")
    if given is not None and not isinstance(given, str):
        raise UsageError(f"model.weights={given}: expected a run's folder or a .safetensors file.")
    if "partial" in cfg.strategy and cfg.selector._target_.endswith(".Everything"):
        print(
            "frostline: selector=everything chooses all: this is full fine-tuning, whatever strategy=partial is called."
        )
    for node in cfg.held_out:
        if not isinstance(node, DictConfig):
            raise UsageError(f"held_out: expected the names of streams, such as held_out=[rotated_digits], not {node}.")
        check_target(f"held_out.{node.name}", without(node, "name"))
    if "lr" in cfg.optimizer and cfg.optimizer.lr is None:
        raise UsageError("optimizer.lr=null: expected a number, such as 0.05.")
    in_range("optimizer.lr", cfg.optimizer.get("lr"), 0, above=True)
    for key in ("weight_decay", "momentum"):
        in_range(f"optimizer.{key}", cfg.optimizer.get(key), 0)
    in_range("seed", cfg.seed, 0, whole=True)
    trainer_config(cfg)
    in_range("cost.reference_steps", cfg.cost.reference_steps, 0)
    in_range("cost.utilisation", cfg.cost.utilisation, 0, 1, above=True)
    if cfg.cost.device is not None and peak(str(cfg.cost.device), "float32") is None:
        raise UsageError(f"cost.device={cfg.cost.device!r}: not known. Expected one of {', '.join(PEAKS)}, or null.")
    for kind in cfg.figures:
        one_of("figures", kind, ("png", "pdf", "svg"))
    one_of("cost.energy", cfg.cost.energy, ("off", "codecarbon"))
    one_of("tracking.name", cfg.tracking.name, ("none", "wandb"))
    one_of("tracking.mode", cfg.tracking.mode, ("offline", "online"))
    if cfg.stream.get("online") and cfg.trainer.epochs != 1:
        raise UsageError(
            f"trainer.epochs={cfg.trainer.epochs}: an online stream (stream.online=true) is seen once. "
            "The nearest valid value is 1; trainer=online also sets small batches."
        )


def trainer_config(cfg: DictConfig) -> TrainerConfig:
    """Return the section `trainer`, checked."""
    trainer = TrainerConfig(**plain(cfg)["trainer"])
    trainer.check()
    return trainer


def expand(cfg: DictConfig) -> None:
    """Put the configuration of each stream that `held_out` names in the place of its name."""
    expanded: list[dict[str, Any]] = []
    for entry in cfg.held_out:
        given: dict[str, Any] = (
            {str(k): v for k, v in entry.items()} if isinstance(entry, DictConfig) else {"stream": entry}
        )
        if "_target_" not in given:
            name = given.pop("stream", None)
            if not isinstance(name, str):
                raise UsageError(
                    f"held_out: expected the name of a stream, such as held_out=[rotated_digits], not {entry}."
                )
            section: dict[str, Any] = plain(compose_config(f"stream={name}"))["stream"]
            given = {"name": name, **section, **given}
        expanded.append(given)
    if len({entry["name"] for entry in expanded}) < len(expanded):
        raise UsageError(f"held_out: expected different streams, not {[entry['name'] for entry in expanded]}.")
    cfg.held_out = expanded


def without(node: DictConfig, key: str) -> DictConfig:
    """Return the section without a key that is not an argument of what it builds."""
    return DictConfig({name: value for name, value in plain(node).items() if name != key})


def compose_config(*overrides: str) -> DictConfig:
    """Return the configuration that these overrides make; UsageError, in our words, for one that cannot be."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import MissingConfigException

    try:
        if GlobalHydra.instance().is_initialized():
            return compose("config", overrides=list(overrides))
        register()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("config", overrides=list(overrides))
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file or overrides[0]).rpartition("/")
        options = options_of(group)
        raise UsageError(f"{group}={name}: expected one of {', '.join(options)}.{nearest(name, options)}") from error


def options_of(group: str) -> list[str]:
    """Return the names of a group's files."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def _refuse_nan(path: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_nan(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _refuse_nan(f"{path}[{number}]", inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{path}={value}: expected a finite number.")


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys in which two plain configurations differ, with both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(k for k in new if k not in old)]:
        a, b, path = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            found |= differences(a, b, f"{path}.")
        elif a != b:
            found[path] = (a, b)
    return found
