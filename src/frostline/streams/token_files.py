"""Token ids in files, read as they are needed: a corpus may be larger than memory, and is tokenised once."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frostline.core.digests import combined
from frostline.core.files import atomic_write
from frostline.core.sources import ids
from frostline.core.types import Batch


@dataclass(frozen=True)
class TokenFile:
    """A file of int32 token ids, with their number and a digest of them beside it, without which it does not count."""

    path: Path

    @contextmanager
    def writing(self) -> Iterator[Callable[[np.ndarray], None]]:
        """Yield what takes more tokens; the file is there when the block ends well, whoever else writes it too."""
        digest, count = hashlib.blake2b(digest_size=16), 0
        with atomic_write(self.path, "wb") as f:

            def append(tokens: np.ndarray) -> None:
                nonlocal count
                data = np.ascontiguousarray(tokens, dtype="<i4").tobytes()
                digest.update(data)
                f.write(data)
                count += len(tokens)

            yield append
        with atomic_write(self._note) as f:
            json.dump({"tokens": count, "digest": digest.hexdigest()}, f)

    @property
    def _note(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def complete(self) -> bool:
        """Whether the file is there, whole."""
        try:
            return self.path.stat().st_size == 4 * json.loads(self._note.read_text())["tokens"]
        except (OSError, ValueError, LookupError, TypeError):  # none, or damaged
            return False

    @property
    def digest(self) -> str:
        """The digest of the tokens as they were written."""
        return str(json.loads(self._note.read_text())["digest"])

    def tokens(self) -> np.ndarray:
        """Return the tokens, which stay in the file."""
        return np.memmap(self.path, dtype="<i4", mode="c")  # torch wants what can be written to: a copy would be


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
        return combined([self.file.digest, self.length, self.rows])

    def holds(self) -> dict[int, int]:
        """Return the digest of the whole file."""
        return {hash(str(self.file.path)): int(self.file.digest[:16], 16)}

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


def token_files(folder: Path, name: str, made_of: Iterable[Path], *settings: Any) -> list[TokenFile]:
    """Return where a domain's tokens are, to learn from and to test on.

    The files' names change with what they are made of: names, sizes and times of files, those in folders among them, and
    settings.
    """
    total = hashlib.blake2b(repr(settings).encode(), digest_size=12)
    for path in made_of:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            known = file.stat() if file.is_file() else None
            total.update(repr((str(file), known and (known.st_size, known.st_mtime_ns))).encode())
    mark = total.hexdigest()
    return [TokenFile(folder / f"{name}-{mark}-{side}.tokens") for side in ("train", "test")]
