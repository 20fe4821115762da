"""Token ids in files, read as they are needed: a corpus may be larger than memory, and is tokenised once."""

import hashlib
import json
import os
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frostline.core.digests import combined
from frostline.core.files import atomic_write
from frostline.core.sources import ids
from frostline.core.types import Batch


class TokenFile:
    """A file of int32 token ids, written from its beginning to its end, with a digest of them beside it.

    What is at `path` counts once `close` was called: a kill leaves a part that is written anew.
    """

    def __init__(self, path: Path):
        self.path, self.part = path, path.with_suffix(".part")
        self.digest = hashlib.blake2b(digest_size=16)
        self.count = 0

    @property
    def complete(self) -> bool:
        return self.path.with_suffix(".json").is_file() and self.path.is_file()

    def append(self, tokens: np.ndarray) -> None:
        """Write some more."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = np.ascontiguousarray(tokens, dtype="<i4").tobytes()
        self.digest.update(data)
        with self.part.open("ab" if self.count else "wb") as f:
            f.write(data)
        self.count += len(tokens)

    def close(self) -> None:
        """Let the file count."""
        os.replace(self.part, self.path)
        with atomic_write(self.path.with_suffix(".json")) as f:
            json.dump({"tokens": self.count, "digest": self.digest.hexdigest()}, f)

    def tokens(self) -> np.ndarray:
        """Return the tokens, which stay in the file."""
        return np.memmap(self.path, dtype="<i4", mode="r+")  # as torch wants arrays that can be written to; nobody does

    def known_digest(self) -> str:
        """Return the digest of the file as it was written."""
        return str(json.loads(self.path.with_suffix(".json").read_text())["digest"])


class FileWindows:
    """Windows [length] of the tokens in a file, each with the same one token further as its targets; a Source.

    rows: which windows, all where None.
    """

    def __init__(self, file: TokenFile, length: int, task: int, device: str, rows: Tensor | None = None):
        self.file, self.length, self.task, self.device = file, length, task, device
        self.tokens = file.tokens()
        self.rows = torch.arange((len(self.tokens) - 1) // length) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        return 16 * self.length * len(self)  # as samples would take in memory

    @property
    def labels(self) -> Tensor:
        """All targets [N, length] int32, in the file but for parts of it."""
        whole = torch.from_numpy(self.tokens)[1:].unfold(0, self.length, self.length)
        return whole if len(whole) == len(self) else whole[self.rows]

    def part(self, which: Tensor) -> "FileWindows":
        """Return some of the windows, by a bool for each."""
        return FileWindows(self.file, self.length, self.task, self.device, self.rows[which])

    def digest(self) -> str:
        """Return a digest of the file as it was written, and of which windows these are."""
        return combined([self.file.known_digest(), self.length, self.rows])

    def holds(self) -> dict[int, int]:
        """Return the digest of the whole file."""
        return {hash(str(self.file.path)): int(self.file.known_digest()[:16], 16)}

    def batches(
        self, size: int, order: Tensor | None = None, start: int = 0, *, samples: bool = True
    ) -> Iterator[Batch]:
        """Yield windows as int64 tokens; only theirs are read."""
        places = torch.arange(len(self)) if order is None else order
        span = np.arange(self.length + 1)
        for part in places[start * size :].split(size):
            if len(part):
                rows = self.rows[part]
                found = torch.from_numpy(self.tokens[rows.numpy()[:, None] * self.length + span].astype(np.int64))
                x, task = found[:, :-1] if samples else found[:, :0], torch.full((len(part),), self.task)
                yield Batch(x, found[:, 1:], task, ids(task, rows)).to(torch.device(self.device))


def files_of(
    folder: Path, places: Mapping[str, str], also: Sequence[str], *settings: Any
) -> Callable[[str], list[TokenFile]]:
    """Return what says where a domain's tokens are, to learn from and to test on.

    The files' names change with what they are made of: the domain's place (what is installed, where it has none), the files
    `also`, and settings.
    """

    def files(name: str) -> list[TokenFile]:
        place = places.get(name, sysconfig.get_paths()["purelib"])
        mark = stamp([place, *filter(None, also)], *settings)
        return [TokenFile(folder / f"{name}-{mark}-{side}.tokens") for side in ("train", "test")]

    return files


def stamp(paths: Sequence[Path | str], *settings: Any) -> str:
    """Return a word that changes with the names, sizes and times of files, those in folders among them, and with settings."""
    total = hashlib.blake2b(repr(settings).encode(), digest_size=12)
    for path in map(Path, paths):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            known = file.stat() if file.is_file() else None
            total.update(repr((str(file), known and (known.st_size, known.st_mtime_ns))).encode())
    return total.hexdigest()
