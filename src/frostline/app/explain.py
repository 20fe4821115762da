"""One clear message for what the user typed wrong, from whatever error Hydra, OmegaConf or frostline raised."""

import re
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from frostline.app.config import RunConfig, conf_dir
from frostline.core.checks import UsageError, nearest

NO_MEMORY = re.compile("out of memory|allocate memory|not enough memory")  # as torch says it, of a CPU or a GPU
TYPES = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}


def explain(error: BaseException) -> str | None:
    """Return the message for an error of the user's making, None for anything else (a bug: show the traceback)."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import (
        InterpolationResolutionError,
        OmegaConfBaseException,
        UnsupportedInterpolationType,
    )

    inner: BaseException | None = error
    while inner is not None:  # what we refuse ourselves may come wrapped in Hydra's own error
        if isinstance(inner, UsageError):
            return str(inner)
        inner = inner.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = list(error.options or sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")))
        return f"{group}={name}: expected one of {', '.join(options)}.{nearest(name, options)}"
    if isinstance(error, OverrideParseException):
        return _syntax(str(error.override))
    if isinstance(error, ValueError) and str(error).startswith("Config group override"):
        return f"{error}. Expected group=option, such as strategy=finetune."
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))):
        reason = (str(error).splitlines() or ["out of memory"])[0]
        return f"There is not enough memory: {reason} Expected a smaller model, trainer.batch_size or trainer.prefix_cache_gib."
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    cause: Any = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    text = f"{error}\n{cause or ''}".replace("Error merging override ", "").strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(cause, InterpolationResolutionError | UnsupportedInterpolationType) and cause.full_key:
        return f"{cause.full_key}: {lines[0].rstrip('.')}. Expected the name of a setting in ${{}}, such as ${{seed}}."
    return _ambiguous(lines[0]) or _wrong_type(text, lines[0]) or _unknown_key(cause, text) or _plain(lines)


def _plain(lines: list[str]) -> str:
    noise = r"(full_key|object_type|reference_type)[:=]|To append|Set the env"
    kept = [line.rstrip(".") for line in lines if not re.match(noise, line)]
    return ". ".join(dict.fromkeys(kept)) + "."


def _syntax(override: str) -> str:
    """Explain what cannot be parsed; a bare word may be the option of a group."""
    if "=" not in override:
        groups = [path.parent.name for path in conf_dir().glob(f"*/{override}.yaml")]
        example = f"{groups[0]}={override}" if groups else "strategy=replay"
        return f"{override}: expected key=value, such as {example}."
    return f"{override}: cannot be read. Expected key=value, or key=[a,b] for a list, without a comma at its end."


def _ambiguous(line: str) -> str:
    found = re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", line)
    if found is None:
        return ""
    chain = f", or brackets, which chain them: strategy=[{found[2]}]" if found[1] == "strategy" else ""
    return f"{found[1]}={found[2]}: several values need -m, which runs each{chain}."


def _wrong_type(text: str, override: str) -> str:
    """Explain a value of the wrong type by what was expected."""
    key, _, value = override.partition("=")
    if "is not a ListConfig" in text:
        return f"{key}={value}: expected a list, such as {key}=[{value}]."
    if "is not Optional" in text:
        default = OmegaConf.select(OmegaConf.structured(RunConfig), key)
        return f"{key}={value}: expected a value, such as {default}."
    found = re.search(r"Value '(.*)' (?:of type '\w+' could not be converted to|is not a valid) (\w+)", text)
    if found is None or "=" not in override:
        return ""
    return f"{key}={value}: expected {TYPES.get(found[2], found[2])}, not {found[1]!r}."


def _unknown_key(cause: Any, text: str) -> str:
    """Explain a key that does not exist here: the nearest one, or where there is one of this name."""
    unknown = re.search(r"Key '([^']+)' (?:is not in struct|not in '[^']+')", f"{text} {cause}")
    path = re.search(r"Could not override '([^']+)'", text)
    if unknown is None and path is None:
        return ""
    whole = path[1] if path else unknown[1] if unknown else ""
    name = unknown[1] if unknown else whole.split(".")[-1]
    parent = getattr(cause, "parent_node", None)
    known = [str(k) for k in parent] if parent is not None and hasattr(parent, "keys") else []
    if whole.startswith(f"strategy.{name}.") and (conf_dir() / "strategy" / f"{name}.yaml").is_file():
        has = f"{whole}: this run's strategy is {', '.join(known)}, which has no {name}."
        return f"{has} Expected strategy={name}, or a sweep of its own for it."
    written = OmegaConf.to_container(parent, resolve=False) if isinstance(parent, DictConfig) else None
    groups = written.items() if isinstance(written, dict) else ()
    inside = [key for key, own in groups if isinstance(own, dict) and name in own]
    if inside and "." in whole:
        return f"{whole}: there is no such setting. Did you mean {whole.rpartition('.')[0]}.{inside[0]}.{name}?"
    hint = nearest(name, known) or _elsewhere(name, whole.split(".")[0] if "." in whole else "")
    return f"{whole}: there is no such setting." + (hint or (f" Known keys: {', '.join(known)}." if known else ""))


def _elsewhere(name: str, section: str) -> str:
    """Return where there is a key of this name: in the schema, or in the files of a group."""
    for part in fields(RunConfig):
        factory = part.default_factory
        if not section and is_dataclass(factory) and name in {f.name for f in fields(factory)}:
            return f" Did you mean {part.name}.{name}?"
    found: dict[str, list[str]] = {}
    for path in sorted(conf_dir().glob(f"{section or '*'}/*.yaml")):
        group, content = path.parent.name, OmegaConf.load(path)
        if not isinstance(content, DictConfig) or group in ("experiment", "trainer"):
            continue
        own = content.get(path.stem) if group == "strategy" else content
        if isinstance(own, DictConfig) and name in own:
            key = f"strategy.{path.stem}.{name}" if group == "strategy" else f"{group}.{name}"
            found.setdefault(key, []).append(f"{group}={path.stem}")
    if len(found) > 3:
        names = [key.split(".")[1] for key in found]
        return f" Did you mean {section or 'strategy'}.NAME.{name}, with {', '.join(names)} for NAME?"
    places = [f"{key} (of {', '.join(options)})" for key, options in found.items()]
    return f" Did you mean {' or '.join(places)}?" if places else ""
