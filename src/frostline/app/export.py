"""A run's model for others: weights under the names of the library they come from, and a program that needs nothing of ours."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frostline.app.building import build
from frostline.app.config import DictConfig
from frostline.app.targets import refuse_foreign, targets
from frostline.core.checks import UsageError, one_of
from frostline.core.files import atomic_write, make_folder
from frostline.core.heads import rebuilt
from frostline.models.llama import keep_apart
from frostline.records import weights

FORMATS = ("torch", "onnx", "none")
TOLERANCE = 1e-5


def export(run: Path, to: Path, program: str = "torch", allow: Sequence[str] = ()) -> dict[str, float]:
    """Write the model of a run's folder to another; return how far each written form is from the run's own logits.

    weights.safetensors has the original names (timm's, Hugging Face's) where there are such, and ours elsewhere. program:
    'torch' writes model.pt2 for torch.export.load, 'onnx' model.onnx. UsageError where anything answers otherwise than the run.
    allow: a class or function of the user's own that the run's model.json may name.
    """
    one_of("format", program, FORMATS)
    description = read_description(run)
    if kind := description["model"].get("quantised"):
        raise UsageError(
            f"{run}: its model is adapters beside a base in {kind}, which is no weights to write. Expected a run with "
            "model.quantised=null."
        )
    hint = "say so with --allow"
    named = targets([description["model"], description.get("selector")])
    refuse_foreign(named - set(allow), str(run / weights.DESCRIPTION), hint)
    if description.get("between_layers") and not description["per_task"]:
        raise UsageError(
            f"{run}: its method puts prompts between the layers, which an exported program has not. Expected a run of another "
            "method; this one goes on with frostline."
        )
    if description["per_task"]:
        print("frostline: this method serves each task in its own way; exported are the weights of all tasks together.")
    model = build_model(run, description)
    served = weights.read(run / weights.SERVED)
    x, expected = served["x"], served["logits"]
    with torch.no_grad():
        distances = {"model": _distance(model(x), expected)}
    make_folder(to, "--to")
    names = description["original_names"]
    tensors = {names.get(name, name): value for name, value in model.state_dict().items()}
    weights._write(to / "weights.safetensors", weights._unshared(tensors))
    if program == "torch":
        torch.export.save(_program(model, x), to / "model.pt2")
        with torch.no_grad():
            distances["model.pt2"] = _distance(torch.export.load(to / "model.pt2").module()(x), expected)
    elif program == "onnx":
        distances["model.onnx"] = _distance(_onnx(model, x, to / "model.onnx"), expected)
    with atomic_write(to / "README.txt") as f:
        f.write(_readme(description, program, x))
    for name, distance in distances.items():
        if distance > TOLERANCE:
            raise UsageError(f"{name} answers otherwise than the run did, by {distance:.1e}: it is not to be used.")
    return distances


def build_model(run: Path, description: dict[str, Any]) -> nn.Module:
    """Return the model of a run's folder with its weights, in eval mode."""
    ours = {"pretrained": False, "checkpoint": None}  # its weights are the run's
    if description["model"].get("quantised"):
        ours = {}  # but for those that are constants
    node = {key: ours.get(key, value) for key, value in description["model"].items() if key != "weights"}
    model = build(DictConfig(node), shape=tuple(description["shape"]), classes=description["classes"])
    if description.get("head") is not None:  # one that was worked out takes the place of the model's own
        model.head = rebuilt(description["head"]).to(next(model.parameters()).device)
    tensors = weights.read(run / weights.NAME)
    if tensors.keys() - model.state_dict().keys() and description.get("selector"):
        build(DictConfig(description["selector"])).prepare(model)  # added blocks
    if other := sorted(tensors.keys() ^ model.state_dict().keys()):
        raise UsageError(
            f"{run}: its method put parts into the net that an exported model does not have, {other[0]} among them. Expected a "
            "run of another method; this one goes on with frostline."
        )
    model.load_state_dict(tensors)
    keep_apart(model, description.get("end"))
    return model.eval()


def read_description(run: Path) -> dict[str, Any]:
    """Return model.json of a run's folder."""
    path = run / weights.DESCRIPTION
    if not path.is_file():
        raise UsageError(f"{run}: there is no {weights.DESCRIPTION}. Expected the folder of a complete run.")
    content = json.loads(path.read_text())
    if content.get("format") != weights.FORMAT:
        raise UsageError(f"{path}: expected {weights.FORMAT!r}, found {content.get('format')!r}.")
    return content


def _program(model: nn.Module, x: torch.Tensor) -> Any:
    batch = torch.export.Dim("batch", min=1)
    try:
        return torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=False)
    except Exception as error:  # models fail to be traced in many ways; those of one size of batch may still do
        print(f"frostline: exported for batches of {len(x)} only ({(str(error).splitlines() or [''])[0]}).")
        return torch.export.export(model, (x,), strict=False)


def _onnx(model: nn.Module, x: torch.Tensor, path: Path) -> torch.Tensor:
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            "format=onnx needs onnx, onnxscript and onnxruntime: pip install 'frostline[onnx]'."
        ) from error
    dynamic: Any = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own inside
        torch.onnx.export(model, (x,), str(path), dynamo=True, verbose=False, dynamic_shapes=dynamic)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest logit where that is above 1."""
    return float((found - expected).abs().max() / max(1.0, float(expected.abs().max())))


def _readme(description: dict[str, Any], program: str, x: torch.Tensor) -> str:
    lines = [
        f"A model for samples of shape {description['shape']} ({x.dtype}), with logits of {description['classes']} classes, "
        f"learned from {description['stream']}.",
        "weights.safetensors: its tensors, under the names of the library they come from where they come from one.",
    ]
    if program == "torch":
        lines.append("model.pt2: logits = torch.export.load('model.pt2').module()(x)")
    if program == "onnx":
        lines.append("model.onnx: logits = onnxruntime.InferenceSession('model.onnx').run(None, {input: x})")
    return "\n".join(lines) + "\n"
