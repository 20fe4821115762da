"""Checkpoints: tensors and plain values, written whole, read without unpickling code."""

import pickle
from pathlib import Path
from typing import Any

import torch

from frostline.checks import UsageError
from frostline.files import atomic_write

FORMAT = "frostline.checkpoint/1"
NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write folder/checkpoint.pt; the previous one stays until the new one is complete."""
    with atomic_write(folder / NAME, "wb") as f:
        torch.save({"format": FORMAT, **state}, f)


def load(folder: Path) -> dict[str, Any]:
    """Return the state in folder/checkpoint.pt; UsageError where it is missing, damaged or not ours."""
    path = folder / NAME
    if not folder.is_dir():
        raise UsageError(f"resume={str(folder)!r}: there is no such folder. Expected the folder of an earlier run.")
    if not path.is_file():
        runs = sorted((p.parent.name for p in folder.glob(f"*/{NAME}")), key=lambda n: (len(n), n))
        more = ", ..." if len(runs) > 4 else ""
        hint = f" Its subfolders {', '.join(runs[:4])}{more} hold runs: resume one of them." if runs else ""
        raise UsageError(f"resume={str(folder)!r}: the folder holds no {NAME}.{hint}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path} is damaged or was not written by frostline: {reason} Nothing was changed.") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise UsageError(f"{path} is not a checkpoint of this version: expected {FORMAT!r}, found {found!r}.")
    return state
