"""Language modelling by domain: a task is a domain, a sample a window of its text, and every token asks for the next."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.files import make_folder
from frostline.core.sources import TensorSource
from frostline.core.types import Source, Suite, Task, TaskStream
from frostline.streams.documents import PIECE, Documents, domains_in, fingerprint, is_test, pieces
from frostline.streams.keeping import keep
from frostline.streams.rows import Places, chosen, stem
from frostline.streams.token_files import FileWindows, TokenFile, token_files
from frostline.streams.tokens import groups_of, tokens_for

BATCH = 256  # documents tokenised at once


def language(
    path: str | Places | None = None,
    tasks: Sequence[str] | None = None,
    held_out: Sequence[str] = (),
    tokenizer: str | None = None,
    attention: str = "across",
    length: int = 256,
    tokens_per_task: int | None = 1_000_000,
    test_tokens: int | None = 100_000,
    test_share: float = 0.1,
    validation: float = 0.0,
    encoding: str = "utf-8",
    skip_unreadable: bool = False,
    token_groups: Mapping[str, str | None] | None = None,
    token_folder: str | None = None,
    online: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> TaskStream:
    """Return a stream of windows [length] of token ids, whose targets are the tokens that follow.

    path: see documents.domains_in; None for what is installed: docstrings, python, cpp, stubs, readmes. tasks: domains in
    their order, all where None; 'go+elisp' is one task of both in equal parts. held_out: domains, or mixtures, whose test
    data are evaluated after every task and never learned from. tokenizer: a tokenizer.json or a folder with one; None takes
    bytes. tokens_per_task, test_tokens: as many are read, all where None. Documents that say the same but for case, digits,
    spaces and punctuation are taken once. A hash of what they say decides whether they are among the `test_share` to test on,
    where the data have no test rows of their own; a document of more than 8,192 characters is several. They are joined end to
    end, with a token between them, and cut into windows: a window may begin inside one, and see several; attention=within
    keeps attention within a document (positions go on counting). token_groups: {name: pattern}, see trainer.output_drift.
    token_folder: where tokens are kept in files, four bytes each, and read as they are needed. validation: the share of the
    windows to learn from that is held out, the last ones. No choice depends on the seed. The loss is in nats a token.
    """
    one_of("stream.attention", attention, ("across", "within"))
    in_range("stream.length", length, 2)
    in_range("stream.test_share", test_share, 0.001, 0.9)
    in_range("stream.tokens_per_task", tokens_per_task, length + 1)
    in_range("stream.test_tokens", test_tokens, length + 1)
    domains = domains_in(path, encoding, skip_unreadable)
    names = chosen(domains, tasks, held_out, mixtures=True)
    tokens = tokens_for(tokenizer)
    limits, folder = (tokens_per_task, test_tokens), None
    if token_folder is not None:
        folder = Path(token_folder).expanduser()
        make_folder(folder, "stream.token_folder")

    def files(name: str) -> list[TokenFile]:
        assert folder is not None
        made_of = [domains[name].place, *(Path(path).expanduser() for path in (tokenizer,) if path)]
        return token_files(folder, name, made_of, name, test_share, limits, encoding, skip_unreadable, PIECE)

    kept = None if folder is None else files
    reading = _Reading(domains, tokens.documents, test_share, limits, length, device, kept)
    made = []
    for t, name in enumerate(names):
        train, test = (_windows(side, length, t, device) for side in reading.of(name))
        made.append(Task(t, f"{t}: {name}", (), train, test))
    suites = tuple(Suite(name, _windows(reading.of(name)[1], length, 0, device)) for name in held_out)
    name = "installed" if path is None else stem(path)
    end = tokens.end if attention == "within" else None
    stream = TaskStream(
        f"language_{name}",
        "domain",
        tuple(made),
        tokens.size,
        (length,),
        online,
        suites,
        end=end,
        groups=partial(groups_of, tokens, token_groups),
        tokens=tokens,
    )
    return keep(stream, validation=validation)


Encode = Callable[[list[str]], list[np.ndarray]]  # each document's tokens, with the one that ends it


class _Side:
    """The tokens of a domain to learn from, or to test on: documents end to end, up to a limit."""

    def __init__(self, encode: Encode, limit: int | None, put: Callable[[np.ndarray], None]):
        self.encode, self.limit, self.put = encode, limit, put
        self.waiting: list[str] = []
        self.count = 0

    @property
    def full(self) -> bool:
        return self.limit is not None and self.count >= self.limit

    def add(self, document: str) -> int:
        """Take a document; return how many tokens there are more, when a batch of documents was tokenised."""
        self.waiting.append(document)
        signs = sum(map(len, self.waiting))
        enough = (
            len(self.waiting) == BATCH or signs > 2**20 or (self.limit is not None and self.count + signs >= self.limit)
        )
        return self.flush() if enough else 0

    def flush(self) -> int:
        before = self.count
        if self.waiting:
            tokens = np.concatenate(self.encode(self.waiting), dtype=np.int32)
            tokens = tokens if self.limit is None else tokens[: max(0, self.limit - self.count)]
            self.put(tokens)
            self.count += len(tokens)
        self.waiting.clear()
        return self.count - before


class _Reading:
    """Reads each domain or mixture once: what to learn from, and what to test on."""

    def __init__(
        self, domains: dict[str, Documents], encode: Encode, share: float, limits: Sequence[int | None], length: int,
        device: str, files: Callable[[str], list[TokenFile]] | None = None,
    ):  # fmt: skip
        self.domains, self.encode, self.share, self.length, self.device = domains, encode, share, length, device
        self.limits, self.files = limits, files
        self.known: dict[str, list[Any]] = {}

    def of(self, name: str) -> list[Any]:
        """Return the tokens to learn from and to test on: tensors, or files."""
        if name not in self.known and self.files is not None:
            if "+" in name:
                raise UsageError(
                    f"stream.token_folder keeps the tokens of one domain in a file: {name!r} are several. Expected "
                    "stream.token_folder=null, or one domain a task."
                )
            files = self.known[name] = self.files(name)
            if not all(file.complete for file in files):
                with files[0].writing() as train, files[1].writing() as test:
                    self._read(name, self.limits, (train, test))
        if name not in self.known:
            parts = name.split("+")
            limits = [None if limit is None else -(-limit // len(parts)) for limit in self.limits]
            sides = list(zip(*(self._in_memory(part, limits) for part in parts), strict=True))
            if len(parts) > 1:  # of all there is, as much of each as of the smallest
                sides = [[part[: min(map(len, side))] for part in side] for side in sides]
            self.known[name] = [torch.cat(list(side)).to(self.device) for side in sides]
        return self.known[name]

    def _in_memory(self, name: str, limits: Sequence[int | None]) -> list[Tensor]:
        found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self._read(name, limits, [side.append for side in found])
        return [torch.from_numpy(np.concatenate(side, dtype=np.int64)) for side in found]

    def _read(self, name: str, limits: Sequence[int | None], puts: Sequence[Callable[[np.ndarray], None]]) -> None:
        """Give the tokens to learn from to the first of `puts`, those to test on to the second."""
        sides = [_Side(self.encode, limit, put) for limit, put in zip(limits, puts, strict=True)]
        seen = set[bytes]()
        with tqdm(
            total=limits[0], desc=f"reading {name}", unit=" tokens", leave=False, delay=2, unit_scale=True
        ) as bar:
            for document, side in ((piece, side) for whole, side in self.domains[name]() for piece in pieces(whole)):
                mark = fingerprint(document)
                held_out = is_test(mark, self.share) if side is None else side
                if mark not in seen and document.strip() and not sides[held_out].full:
                    seen.add(mark)
                    bar.update(sides[held_out].add(document) * (not held_out))
                if all(side.full for side in sides):
                    break
        for side, what, key in zip(sides, ("learn from", "test on"), ("tokens_per_task", "test_share"), strict=True):
            side.flush()
            if side.count <= self.length:
                raise UsageError(
                    f"{name}: {side.count} tokens to {what}, of {len(seen)} different documents. Expected more than "
                    f"stream.length={self.length}: more text, a shorter length, or another stream.{key}."
                )


def _windows(tokens: Tensor | TokenFile, length: int, task: int, device: str) -> Source:
    """Return windows of the tokens, each with the same one token further as its targets; both are views."""
    if isinstance(tokens, TokenFile):
        return FileWindows(tokens, length, task, device)
    x, y = tokens[:-1].unfold(0, length, length), tokens[1:].unfold(0, length, length)
    return TensorSource(x, y, torch.arange(len(x)), task)
