"""Language modelling by domain: a task is a domain, a sample a window of its text, and every token asks for the next."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.sources import TensorSource
from frostline.core.types import Suite, Task, TaskStream
from frostline.streams.documents import Documents, domains_in, fingerprint, is_test, pieces

ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<|im_end|>", "<eos>", "[SEP]")
BATCH = 256  # documents tokenised at once


def language(
    path: str | None = None,
    tasks: Sequence[str] | None = None,
    held_out: Sequence[str] = (),
    tokenizer: str | None = None,
    length: int = 256,
    tokens_per_task: int | None = 1_000_000,
    test_tokens: int | None = 100_000,
    test_share: float = 0.1,
    encoding: str = "utf-8",
    skip_unreadable: bool = False,
    online: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> TaskStream:
    """Return a stream of windows [length] of token ids, whose targets are the tokens that follow.

    path: see documents.domains_in; None for what is installed: docstrings, python, cpp, stubs, readmes. tasks: domains in
    their order, all where None; 'go+elisp' is one task of both in equal parts. held_out: domains, or mixtures, whose test
    data are evaluated after every task and never learned from. tokenizer: a tokenizer.json or a folder with one; None takes
    bytes. tokens_per_task, test_tokens: as many are read, all where None. Documents that say the same but for case, digits,
    spaces and punctuation are taken once, and a hash of what they say decides whether they are among the `test_share` to test
    on; a document of more than 8,192 characters is several. They are joined end to end, with a token between them, and cut
    into windows: a window may begin inside one, and see several. No choice depends on the seed. The loss is in nats a token.
    """
    in_range("stream.length", length, 2)
    in_range("stream.test_share", test_share, 0.001, 0.9)
    in_range("stream.tokens_per_task", tokens_per_task, length + 1)
    in_range("stream.test_tokens", test_tokens, length + 1)
    domains = domains_in(path, encoding, skip_unreadable)
    names = list(tasks) if tasks is not None else [name for name in domains if name not in held_out]
    for key, given in (("stream.tasks", names), ("stream.held_out", held_out)):
        for part in (part for name in given for part in name.split("+")):
            one_of(key, part, domains)
    if not names:
        raise UsageError("stream.tasks=[]: expected at least one domain.")
    encode, vocabulary = _encoder(tokenizer)
    reading = _Reading(domains, encode, test_share, tokens_per_task, test_tokens, length, device)
    made = []
    for t, name in enumerate(names):
        found = reading.of(name)
        train, test = (_windows(tokens, length, t) for tokens in (found.train, found.test))
        made.append(Task(t, f"{t}: {name}", (), train, test))
    suites = tuple(Suite(name, _windows(reading.of(name).test, length, 0)) for name in held_out)
    stem = Path(path).name if path is not None else "installed"
    return TaskStream(f"language_{stem}", "domain", tuple(made), vocabulary, (length,), online, suites)


class _Tokens(NamedTuple):
    train: Tensor  # int64, documents end to end
    test: Tensor


Encode = Callable[[list[str]], list[np.ndarray]]  # each document's tokens, with the one that ends it


class _Reading:
    """Reads each domain or mixture once."""

    def __init__(
        self, domains: dict[str, Documents], encode: Encode, share: float,
        train: int | None, test: int | None, length: int, device: str,
    ):  # fmt: skip
        self.domains, self.encode, self.share, self.length, self.device = domains, encode, share, length, device
        self.limits = (train, test)
        self.known: dict[str, _Tokens] = {}

    def of(self, name: str) -> _Tokens:
        if name not in self.known:
            parts = name.split("+")
            limits = [None if limit is None else -(-limit // len(parts)) for limit in self.limits]
            read = [self._read(part, *limits) for part in parts]
            if len(read) > 1 and None in limits:  # of all there is, as much of each as of the smallest
                read = [_Tokens(*(t[: min(len(r[k]) for r in read)] for k, t in enumerate(own))) for own in read]
            self.known[name] = _Tokens(*(torch.cat([own[k] for own in read]).to(self.device) for k in (0, 1)))
        return self.known[name]

    def _read(self, name: str, train: int | None, test: int | None) -> _Tokens:
        limits, sides, counts = (train, test), ([], []), [0, 0]
        seen: set[bytes] = set()
        waiting: tuple[list[str], list[str]] = ([], [])

        def tokenise(side: int) -> int:
            before = counts[side]
            for tokens in self.encode(waiting[side]):
                sides[side].append(tokens)
                counts[side] += len(tokens)
            waiting[side].clear()
            return counts[side] - before

        def full(side: int) -> bool:
            limit = limits[side]
            return limit is not None and counts[side] >= limit

        with tqdm(total=train, desc=f"reading {name}", unit=" tokens", leave=False, delay=2, unit_scale=True) as bar:
            for document in (piece for whole in self.domains[name]() for piece in pieces(whole)):
                mark = fingerprint(document)
                side = int(is_test(document, self.share))
                if mark in seen or not document.strip() or full(side):
                    if full(0) and full(1):
                        break
                    continue
                seen.add(mark)
                waiting[side].append(document)
                if len(waiting[side]) == BATCH or sum(map(len, waiting[side])) > 2**20:
                    bar.update(tokenise(side) * (side == 0))
            for side in (0, 1):
                tokenise(side)
        for side, what, key in ((0, "learn from", "tokens_per_task"), (1, "test on", "test_share")):
            if counts[side] <= self.length:
                raise UsageError(
                    f"{name}: {counts[side]} tokens to {what}, of {len(seen)} different documents. Expected more than "
                    f"stream.length={self.length}: more text, a shorter length, or another stream.{key}."
                )
        return _Tokens(*(torch.from_numpy(np.concatenate(sides[k])[: limits[k]].astype(np.int64)) for k in (0, 1)))


def _windows(tokens: Tensor, length: int, task: int) -> TensorSource:
    """Return windows of the tokens, each with the same one token further as its targets; both are views."""
    x, y = tokens[:-1].unfold(0, length, length), tokens[1:].unfold(0, length, length)
    return TensorSource(x, y, torch.arange(len(x)), task)


def _encoder(tokenizer: str | None) -> tuple[Encode, int]:
    """Return what makes tokens of documents, and the size of the vocabulary."""
    if tokenizer is None:
        return lambda texts: [_bytes(text) for text in texts], 257
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError("stream.tokenizer needs a library: pip install 'frostline[text]'.") from error
    path = Path(tokenizer).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"stream.tokenizer={tokenizer!r}: expected a tokenizer.json, or a folder that has one.")
    try:
        made = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exceptions
        raise UsageError(f"stream.tokenizer={tokenizer!r} is no tokenizer.json: {error}.") from error
    made.no_padding()
    made.no_truncation()
    end = next((made.token_to_id(name) for name in ENDS if made.token_to_id(name) is not None), None)
    if end is None:
        raise UsageError(
            f"stream.tokenizer={tokenizer!r} has no token that ends a text. Expected one called {', '.join(ENDS)}."
        )

    def encode(texts: list[str]) -> list[np.ndarray]:
        return [np.array([*e.ids, end]) for e in made.encode_batch(texts, add_special_tokens=False)]

    return encode, made.get_vocab_size()


def _bytes(text: str) -> np.ndarray:
    """Return the bytes of a text, and 256, which ends it."""
    octets = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64)
    return np.append(octets, 256)
