"""The model that a run leaves: its weights as served, what it takes to build it again, and how it answered two samples."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError, nearest
from frostline.core.files import atomic_write
from frostline.core.heads import described
from frostline.core.scope import evaluating
from frostline.core.structure import head
from frostline.core.tensors import digest
from frostline.loop.run import Run
from frostline.models.quantised import Quantised

NAME, DESCRIPTION, SERVED = "model.safetensors", "model.json", "served.safetensors"
FORMAT = "frostline.model/1"


def save(run: Run, folder: Path, config: dict[str, Any]) -> None:
    """Write the model as it answers when the run is over; adapters are merged into the layers that they belong to."""
    batch = next(iter(run.stream[-1].test.batches(2, torch.arange(min(2, len(run.stream[-1].test))))))
    with run.strategy.serving(run.model, None), evaluating(run.model), torch.no_grad():
        logits = run.model(batch.x)
        tensors = {name: value.contiguous() for name, value in merged(run.model).state_dict().items()}
        serving: Any = getattr(run.model, "head", None)
    _write(folder / NAME, _unshared(tensors))
    _write(folder / SERVED, {"x": batch.x, "logits": logits})
    content = {
        "format": FORMAT,
        "model": config["model"],
        "selector": config["selector"],  # it may have added blocks
        "shape": list(run.stream.shape),
        "classes": run.stream.classes,
        "stream": run.stream.name,
        "end": run.stream.end,
        "original_names": getattr(run.model, "original", {}),
        "digest": digest(dict(sorted(tensors.items()))),
        "head": None if serving is getattr(run.model, "head", None) else described(serving),  # one that took its place
        "per_task": run.strategy.uses("serving") and run.stream.scenario == "task",
        "between_layers": not run.strategy.steady,  # it changes what passes between them: prompts, gates
    }
    with atomic_write(folder / DESCRIPTION) as f:
        json.dump(content, f, indent=1)


def merged(model: nn.Module) -> nn.Module:
    """Return the model without adapters, their products added to the weights beside them; itself where it has none.

    Beside packed weights they stay: those have no place for a sum.
    """
    if not any("lora_A" in name for name, _ in model.named_modules()):
        return model
    from peft.tuners.lora import LoraLayer

    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer) and not isinstance(module.get_base_layer(), Quantised):
            module.merge()  # type: ignore[operator]
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.get_base_layer())
    return model


def load_into(model: nn.Module, given: str) -> str:
    """Put a run's weights, or those of a .safetensors file under our names or its library's, into the model.

    Return what was left out: the head, where it has other classes or was worked out in closed form. UsageError where the
    weights are not this model's.
    """
    path = Path(given) / NAME if Path(given).is_dir() else Path(given)
    if not path.is_file():
        raise UsageError(
            f"model.weights={given!r}: there is no {path}. Expected the folder of a complete run, or a .safetensors file."
        )
    tensors = read(path)
    _check_digest(path, tensors)
    ours = {original: name for name, original in getattr(model, "original", {}).items()}
    tensors = {ours.get(name, name): value for name, value in tensors.items()}
    own, outside = model.state_dict(), head(model)
    theirs = {n for n in tensors if n.startswith("head.")} if hasattr(model, "head") else outside & tensors.keys()
    theirs = theirs if outside else set()  # of a head whose matrix is the embedding's
    fits = theirs <= outside and all(tensors[name].shape == own[name].shape for name in theirs)
    kept = {name: value for name, value in tensors.items() if fits or name not in theirs | outside}
    held = {own[name].data_ptr() for name in kept if name in own}  # a shared tensor may be there once
    missing = [name for name in own if name not in kept and name not in outside and own[name].data_ptr() not in held]
    unknown = [name for name in kept if name not in own]
    wrong = [name for name in kept if name in own and kept[name].shape != own[name].shape]
    if missing or unknown or wrong:
        raise UsageError(f"model.weights={given!r}: {_difference(own, kept, missing, unknown, wrong)}")
    model.load_state_dict(kept, strict=False)
    left = [name for name in outside if name not in kept]
    return (
        f"Weights of {path}, but not the head, which answers for other classes or in another way."
        if left
        else f"Weights of {path}."
    )


def _check_digest(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not those which the description beside them was written for."""
    description = path.with_name(DESCRIPTION)
    if path.name != NAME or not description.is_file():
        return
    before = json.loads(description.read_text(encoding="utf-8")).get("digest")
    if before is not None and before != digest(dict(sorted(tensors.items()))):
        raise UsageError(f"{path} is damaged or was changed: it is not what {DESCRIPTION} beside it was written for.")


def _difference(
    own: Mapping[str, Tensor], kept: Mapping[str, Tensor], missing: list[str], unknown: list[str], wrong: list[str]
) -> str:
    if wrong:
        there, here = list(kept[wrong[0]].shape), list(own[wrong[0]].shape)
        return f"{wrong[0]} is {there} there and {here} here. Expected the same model."
    if unknown:
        return f"it holds {unknown[0]}, which this model has not.{nearest(unknown[0], own)} Expected the same model."
    return f"it does not hold {missing[0]}. Expected weights of the same model."


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; UsageError where it is none, or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix != ".safetensors":
        raise UsageError(f"{path}: expected a .safetensors file; other formats may hold code.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged or no safetensors file: {error}.") from error


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that share no memory, as the format wants them."""
    seen: set[int] = set()
    result = {}
    for name, value in tensors.items():
        again = value.data_ptr() in seen
        seen.add(value.data_ptr())
        result[name] = value.clone() if again else value
    return result


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    with atomic_write(path, "wb") as f:
        f.write(save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}))
