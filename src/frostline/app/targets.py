"""What a configuration names to be called: whether it is there, whether its settings fit, whether it may be called at all."""

import dataclasses
import inspect
import typing
from dataclasses import field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from frostline.core.checks import UsageError, nearest


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved configuration as plain dictionaries, lists and values."""
    return typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


TRUSTED = (  # whose things do nothing but build a part of a run; frostline's own programs are not among them
    "frostline.streams.", "frostline.models.", "frostline.strategies.", "frostline.selectors.", "frostline.loop.schedules.",
    "torch.optim.",
)  # fmt: skip


def targets(value: Any) -> set[str]:
    """Return every _target_ in nested plain values."""
    if isinstance(value, dict):
        own = {str(value["_target_"])} if "_target_" in value else set()
        return own.union(*map(targets, value.values()))
    return set().union(*map(targets, value)) if isinstance(value, list) else set()


def refuse_foreign(found: set[str], where: str, hint: str) -> None:
    """Refuse what a file, which may be anybody's, names to be called, unless it is a part of frostline's or torch's."""
    for target in sorted(found):
        module = getattr(_object(where, target), "__module__", "") or "" if target.startswith(TRUSTED) else ""
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
