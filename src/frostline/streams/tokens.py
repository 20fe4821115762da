"""Texts as token ids: bytes, or what a tokenizer.json makes of them."""

import bisect
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from frostline.core.checks import UsageError
from frostline.core.types import Vocabulary, Writing

ENDS_OF_ANSWERS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|end_of_turn|>")
OCTET, SPACE = re.compile("<0x[0-9A-F]{2}>"), "\u2581"  # as tokenizers of SentencePiece's kind write them
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<|im_end|>", "<eos>", "[SEP]")


class Tokens(Vocabulary, Protocol):
    """What makes token ids of texts; `size` of them are known."""

    size: int

    def words(self) -> list[str]:
        """Return the text of each token."""
        ...

    def marked(self, parts: Sequence[tuple[str, bool]], ends: bool) -> tuple[list[int], list[bool]]:
        """Return the tokens of parts joined to one text, and of each token its part's mark.

        ends: begin and end it with the tokens that texts begin and end with. A token across two parts has the later one's mark.
        """
        ...


def tokens_for(tokenizer: str | None) -> Tokens:
    """Return the tokens of a tokenizer.json or a folder with one; without it bytes."""
    return Bytes() if tokenizer is None else FromFile(tokenizer)


class Bytes:
    """Bytes of UTF-8, and 256, which ends a text."""

    size, end = 257, 256

    def documents(self, texts: list[str]) -> list[np.ndarray]:
        """Return each text's tokens, with the one that ends it."""
        return [np.append(_octets(text), self.end) for text in texts]

    def words(self) -> list[str]:
        """Return each byte's character, where it is one alone."""
        return [bytes([i]).decode("utf-8", "replace") for i in range(256)] + [""]

    @property
    def octets(self) -> Tensor:
        """1 for each byte, and 0 for what ends a text."""
        return (torch.arange(self.size) != self.end).long()

    def writing(self) -> Writing:
        """Return what makes text of bytes, and what ends an answer."""
        marks = tuple(tuple(mark.encode()) for mark in ENDS_OF_ANSWERS)
        return Writing(lambda ids: bytes(i for i in ids if i < 256).decode("utf-8", "replace"), ((self.end,), *marks))

    def marked(self, parts: Sequence[tuple[str, bool]], ends: bool) -> tuple[list[int], list[bool]]:
        """Return the tokens of the parts, and of each its part's mark; nothing begins a text."""
        ids, marks = [], []
        for text, mark in parts:
            octets = _octets(text).tolist()
            ids += octets
            marks += [mark] * len(octets)
        return ([*ids, self.end], [*marks, parts[-1][1]]) if ends else (ids, marks)


class FromFile:
    """The tokens of a tokenizer.json."""

    def __init__(self, path: str):
        self.tokenizer = open_tokenizer(path)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.size = self.tokenizer.get_vocab_size()
        numbers = [self.tokenizer.token_to_id(name) for name in ENDS]
        end = next((number for number in numbers if number is not None), None)
        if end is None:
            raise UsageError(
                f"stream.tokenizer={path!r} has no token that ends a text. Expected one called {', '.join(ENDS)}."
            )
        self.end: int = end
        own = self.tokenizer.token_to_id(_named_end(path) or "")
        self.answered: int = end if own is None else own
        first = self.tokenizer.encode("").ids[:1]
        self.begins: list[int] = [number for number in first if number not in (self.end, self.answered)]

    def documents(self, texts: list[str]) -> list[np.ndarray]:
        """Return each text's tokens, with the one that ends it."""
        return [np.array([*e.ids, self.end]) for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def words(self) -> list[str]:
        """Return each token's text, none of those that are no text."""
        return self.tokenizer.decode_batch([[i] for i in range(self.size)])

    @property
    def octets(self) -> Tensor | None:
        """Each token's bytes."""
        return self._octets

    @cached_property
    def _octets(self) -> Tensor | None:
        """Each token's bytes: a sign is one where the tokenizer spells bytes by signs; special tokens have none."""
        marks, special = json.loads(self.tokenizer.to_str()), self.tokenizer.get_added_tokens_decoder()
        decoder = json.dumps(marks["decoder"])
        signs = [self.tokenizer.id_to_token(i) or "" for i in range(self.size)]
        if '"ByteLevel"' in decoder:
            found = [len(sign) for sign in signs]
        elif '"ByteFallback"' in decoder:
            found = [1 if OCTET.fullmatch(sign) else len(sign.replace(SPACE, " ").encode()) for sign in signs]
        else:
            return None
        return torch.tensor([0 if i in special and special[i].special else n for i, n in enumerate(found)])

    def writing(self) -> Writing:
        """Return what makes text of tokens, and what ends an answer."""
        numbers = [self.tokenizer.token_to_id(name) for name in (*ENDS, *ENDS_OF_ANSWERS)]
        ends = {(number,) for number in (self.end, self.answered, *numbers) if number is not None}
        spelt = {
            tuple(self.tokenizer.encode(mark, add_special_tokens=False).ids)
            for mark in ENDS_OF_ANSWERS
            if self.tokenizer.token_to_id(mark) is None
        }
        return Writing(self.tokenizer.decode, tuple(sorted(ends | spelt)))

    def marked(self, parts: Sequence[tuple[str, bool]], ends: bool) -> tuple[list[int], list[bool]]:
        """Return the tokens of the parts joined to one text, and of each its part's mark."""
        found = self.tokenizer.encode("".join(text for text, _ in parts), add_special_tokens=False)
        stops = list(itertools.accumulate(len(text) for text, _ in parts))
        marks = [parts[min(bisect.bisect_left(stops, stop), len(parts) - 1)][1] for _, stop in found.offsets]
        if not ends:
            return list(found.ids), marks
        return [*self.begins, *found.ids, self.answered], [*(False for _ in self.begins), *marks, parts[-1][1]]


def groups_of(tokens: Tokens, patterns: Mapping[str, str | None] | None) -> dict[str, tuple[int, ...]]:
    """Return the tokens whose text each pattern is found in, by the group's name; refuse one that is found in none.

    A pattern of None is left out.
    """
    if not patterns:
        return {}
    words, found = tokens.words(), {}
    for name, pattern in patterns.items():
        if pattern is None:
            continue
        try:
            own = re.compile(str(pattern))
        except re.error as error:
            raise UsageError(f"stream.token_groups.{name}={pattern!r} is no regular expression: {error}.") from error
        found[str(name)] = tuple(i for i, word in enumerate(words) if word and own.search(word))
        if not found[str(name)]:
            raise UsageError(
                f"stream.token_groups.{name}={pattern!r}: none of the {len(words)} tokens has such a text. Theirs are, say, "
                f"{', '.join(map(repr, words[-5:]))}. Expected a pattern that is found, or stream.token_groups.{name}=null."
            )
    return found


def open_tokenizer(path: str) -> Any:
    """Return the tokenizer in a tokenizer.json, or in a folder that has one."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError("Streams of text need a tokenizer: pip install 'frostline[text]'.") from error
    file = Path(path).expanduser()
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise UsageError(
            f"stream.tokenizer={path!r}: expected the path of a tokenizer.json, or of a folder that has one."
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exceptions
        raise UsageError(f"stream.tokenizer={path!r} is no tokenizer.json: {error}.") from error


def _named_end(path: str) -> str | None:
    """Return the token that ends an answer, where a tokenizer's folder says which it is."""
    file = Path(path).expanduser() / "tokenizer_config.json"
    if not file.is_file():
        return None
    try:
        named = json.loads(file.read_text(encoding="utf-8")).get("eos_token")
    except (ValueError, AttributeError) as error:
        raise UsageError(
            f"stream.tokenizer={path!r}: tokenizer_config.json beside it is no JSON object: {error}."
        ) from error
    return named.get("content") if isinstance(named, dict) else named


def _octets(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64)
