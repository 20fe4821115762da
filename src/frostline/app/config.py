"""The configuration: its schema, and the checks that come before anything is built.

Nothing here imports torch, so that `--help` and a mistyped override answer at once.
"""

import dataclasses
import inspect
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from frostline.core.checks import UsageError, in_range, nearest, one_of
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
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "conf", here.parents[3] / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UsageError(f"frostline's conf/ folder is missing: expected it in {here.parents[1]} or its checkout.")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved configuration as plain dictionaries, lists and values."""
    return typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


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
        raise UsageError(
            "strategy=partial trains what a selector chooses, and selector=everything chooses all. Expected strategy=finetune, "
            "or another selector, such as selector=last_k."
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


TRUSTED = ("frostline.", "torch.optim.")


def targets(value: Any) -> set[str]:
    """Return every _target_ in nested plain values."""
    if isinstance(value, dict):
        own = {str(value["_target_"])} if "_target_" in value else set()
        return own.union(*map(targets, value.values()))
    return set().union(*map(targets, value)) if isinstance(value, list) else set()


def refuse_foreign(found: set[str], where: str, hint: str) -> None:
    """Refuse what a file, which may be anybody's, names to be called, unless it is frostline's or one of torch's optimizers."""
    from hydra.utils import get_object

    for target in sorted(found):
        module = getattr(get_object(target), "__module__", "") or "" if target.startswith(TRUSTED) else ""
        if not f"{module}.".startswith(TRUSTED):
            raise UsageError(f"{where} names {target}, which is none of frostline's. If it is yours, {hint}.")


def check_stored(stored: DictConfig, given: DictConfig, where: str) -> None:
    """Refuse a configuration from a file that names foreign things the command line does not, or lacks settings."""
    hint = "name it as when the run was started, with --config-dir and strategy=, say"
    refuse_foreign(targets(plain(stored)) - targets(plain(given)), where, hint)
    for section in ("trainer", "cost", "checkpoint", "tracking"):
        own, here = set(stored.get(section) or ()), set(given[section])
        if odd := sorted(own ^ here):
            what = "holds" if odd[0] in own else "lacks"
            raise UsageError(f"{where} {what} {section}.{odd[0]}: it is not of this version, or was changed.")


def check_target(path: str, node: Any) -> None:
    """Hold a section with a _target_ against the signature of what it builds: unknown keys, wrong types."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise UsageError(f"{path}: expected the name of a file in conf/{path.split('.')[0]}/, found {node!r}.")
    target = _object(path, node._target_)
    parameters = inspect.signature(target).parameters
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    given = {k: v for k, v in plain(node).items() if not k.startswith("_")}
    typed: list[tuple[str, Any, Any]] = []
    for key in given:
        if key not in parameters:
            raise UsageError(f"{path}.{key}: {node._target_} has no such setting.{nearest(key, parameters)}")
        hint = hints.get(key, Any)
        typed.append((key, hint if _is_plain(hint) else Any, field(default=dataclasses.MISSING)))
    schema = OmegaConf.structured(dataclasses.make_dataclass("Section", typed, kw_only=True))
    for key, value in given.items():
        try:
            schema[key] = value
        except OmegaConfBaseException as error:
            wanted = _in_words(hints.get(key, Any), f"{path}.{key}", value)
            raise UsageError(f"{path}.{key}={value!r}: expected {wanted}.") from error


def _in_words(hint: Any, key: str, value: Any) -> str:
    """Return what a value of this type looks like."""
    inner = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if typing.get_origin(hint) is list or any(typing.get_origin(kind) is list for kind in inner):
        return f"a list, such as {key}=[{value}]"
    kind = inner[0] if inner else hint
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    return words.get(kind, str(kind)) + (" or null" if inner else "")


def _object(path: str, target: str) -> Any:
    """Return what a _target_ names; UsageError where there is no such thing."""
    from importlib import import_module

    from hydra.utils import get_object

    try:
        return get_object(target)
    except Exception as error:
        module, _, name = target.rpartition(".")
        try:
            there = [n for n in dir(import_module(module)) if not n.startswith("_")]
        except Exception as reason:
            while isinstance(reason, ImportError) and reason.__cause__ is not None:
                reason = reason.__cause__
            raise UsageError(
                f"{path}._target_={target}: {module or target} cannot be imported ({type(reason).__name__}: {reason}). "
                "Expected module.Name with the module on PYTHONPATH."
            ) from error
        raise UsageError(f"{path}._target_={target}: {module} has no {name}.{nearest(name, there)}") from error


def _is_plain(hint: Any) -> bool:
    """Tell whether OmegaConf can check a value against the hint."""
    if hint in (int, float, bool, str, type(None)):
        return True
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return all(map(_is_plain, inner))
    is_union = origin is typing.Union or type(hint).__name__ == "UnionType"
    return is_union and len(inner) == 2 and type(None) in inner and all(map(_is_plain, inner))


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
