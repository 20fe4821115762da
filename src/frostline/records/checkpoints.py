"""Checkpoints: tensors and plain values, written whole, read without unpickling code."""

import hashlib
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frostline.core.checks import UsageError
from frostline.core.files import atomic_write
from frostline.core.tensors import digest, tensor_bytes

FORMAT = "frostline.checkpoint/5"
NAME = "checkpoint.pt"
NEXT = "checkpoint.next.pt"  # of several seeds that learn together: it counts once all of them have written theirs
KEYS = (
    "config", "tasks", "threads", "processor", "data", "progress", "model", "optimizer", "strategy", "selector", "meter",
    "backend", "rng", "cuda_rng",
)  # fmt: skip


class Saver:
    """Write folder/checkpoint.pt; the previous one stays until the new one is complete.

    delta: keep the model's weights in a file of their own, base-<digest>.pt, and in each checkpoint only those that
    are no longer what they were there. Whenever more than half has changed, the weights of that moment become the new
    base; the old one goes when the checkpoint that needs the new one is written. waits: what is saved counts when `settle` is
    called, so that seeds that learn together go on from one moment: on some processors other bits come out of fewer at once.
    """

    def __init__(self, folder: Path, delta: bool = False, waits: bool = False):
        self.folder = folder
        self.delta = delta
        self.waits = waits
        self._base: dict[str, Tensor] = {}
        self._name = ""

    def __call__(self, state: dict[str, Any]) -> None:
        """Save the state."""
        state = _compact(state)
        if self.delta:
            state = {**state, "model": self._changes(state["model"])}
        with atomic_write(self.folder / (NEXT if self.waits else NAME), "wb") as f:
            torch.save({"format": FORMAT, **state, "settings": _digest(state["config"])}, f)
        if not self.waits:
            self._forget()

    def settle(self) -> None:
        """Let what was saved count."""
        if self.waits:
            (self.folder / NEXT).replace(self.folder / NAME)
            self._forget()

    def _forget(self) -> None:
        for path in self.folder.glob("base-*.pt"):
            if path.name != self._name:
                path.unlink()

    def _changes(self, model: dict[str, Tensor]) -> dict[str, Any]:
        now = {name: value.detach().cpu() for name, value in model.items()}
        if not self._base and (found := sorted(self.folder.glob("base-*.pt"))):  # a resumed run goes on with its base
            self._name, self._base = found[-1].name, _weights(found[-1])
        changed = self._against(now)
        if tensor_bytes(changed) > 0.5 * tensor_bytes(now):
            self._name = f"base-{digest(now)}.pt"
            with atomic_write(self.folder / self._name, "wb") as f:
                torch.save({"format": FORMAT, "model": now}, f)
            self._base = _weights(self.folder / self._name)
            changed = self._against(now)
        return {"base": self._name, "changed": changed}

    def _against(self, now: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: v for n, v in now.items() if n not in self._base or not torch.equal(v, self._base[n])}


def agree(folders: Sequence[Path]) -> None:
    """Let the checkpoints of seeds that learned together be of one moment, where a kill came between them.

    Once one of them counts, all of that moment are written: they count too. Where none does, none of it is needed.
    """
    waiting = [folder for folder in folders if (folder / NEXT).is_file()]
    counting = [_moment(folder / NAME) for folder in folders if (folder / NAME).is_file()] if waiting else []
    for folder in waiting:
        if _moment(folder / NEXT) in counting:
            (folder / NEXT).replace(folder / NAME)
        else:
            (folder / NEXT).unlink()


def _moment(path: Path) -> tuple[int, ...]:
    progress = _read(path)["progress"]
    return tuple(progress[key] for key in ("task", "part", "step"))


def _compact(value: Any) -> Any:
    """Return nested values with a copy of each tensor that is a part of a larger one: torch.save would write all of that."""
    if isinstance(value, Tensor):
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        return value if whole else value.detach().clone()
    if isinstance(value, dict):
        return {k: _compact(v) for k, v in value.items()}
    return [_compact(v) for v in value] if isinstance(value, list) else value


def _weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a base, mapped: what nobody compares is never read."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["model"]


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
    state = _read(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise UsageError(f"{path} is not a checkpoint of this version: expected {FORMAT!r}, found {found!r}.")
    if lacking := [key for key in KEYS if key not in state]:
        raise UsageError(f"{path} lacks {lacking[0]!r}: it was changed, or not written by frostline.")
    return {**state, "model": _whole(folder, state["model"])}


def refuse_changed_settings(state: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint whose configuration is not the one that it was written with."""
    if state.get("settings", _digest(state["config"])) != _digest(state["config"]):
        raise UsageError(
            f"{path}: the settings in it were changed since it was written. Start a new run with other ones."
        )


def _digest(config: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=8).hexdigest()


def _read(path: Path) -> Any:
    """Return what torch.save wrote, as tensors and plain values; UsageError for what is damaged, a single bit included."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load itself does not look at the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows in many ways
        reason = re.split(r"(?<=[.:])\s", (str(error).splitlines() or [""])[0])[0].rstrip(
            ".:"
        )  # without torch's advice
        raise UsageError(
            f"{path} is damaged or was not written by frostline ({type(error).__name__}: {reason}). Nothing was changed."
        ) from error


def _whole(folder: Path, model: dict[str, Any]) -> dict[str, Any]:
    """Return the whole model where the checkpoint holds what changed since a base."""
    if set(model) != {"base", "changed"}:
        return model
    path = folder / model["base"]
    try:
        base = _read(path)["model"]
    except (UsageError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder / NAME} holds what changed since {path.name}, which is missing or damaged: both files belong together."
        ) from error
    return {**base, **model["changed"]}
