"""Instruction tuning: a task is a set of prompts with their answers, and only the tokens of the answers count."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from tqdm import tqdm

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.objectives import IGNORED, Classification
from frostline.core.sources import TensorSource
from frostline.core.types import Suite, Task, TaskStream
from frostline.streams.chat import Keys, Render, renderer, stretches
from frostline.streams.keeping import keep
from frostline.streams.rows import Places, Rows, chosen, places, stem
from frostline.streams.tokens import Tokens, groups_of, tokens_for

LEARN_FROM = ("answers", "last", "all")
RIGHT = ("token", "answer")


def instructions(
    path: str | Places,
    tasks: Sequence[str] | None = None,
    held_out: Sequence[str] = (),
    tokenizer: str | None = None,
    template: str | None = None,
    learn_from: str = "answers",
    right: str = "token",
    length: int = 256,
    samples_per_task: int | None = None,
    test_samples: int | None = 500,
    test_share: float = 0.1,
    validation: float = 0.0,
    prompt: str | Sequence[str] = "prompt",
    completion: str = "completion",
    messages: str = "messages",
    encoding: str = "utf-8",
    token_groups: Mapping[str, str | None] | None = None,
    online: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> TaskStream:
    """Return a stream of prompts with answers [length] as token ids, whose targets are the answers' tokens.

    path: see rows.places; rows have a prompt and a completion, or messages, see chat.stretches; `prompt`, `completion` and
    `messages` say what the columns are called. tokenizer: a tokenizer.json or a folder with one; None takes bytes. template:
    see chat.renderer. learn_from: the tokens that count: of all answers, of a conversation's last one, or all tokens. right:
    what the accuracy matrix counts: tokens, each after the right ones before it, or whole answers, which is exact match with
    greedy decoding. Prompt and completion are ended by the token that ends a text, messages as their template ends them. What
    is longer than `length` is cut at its end; a row of whose answer nothing is left is left out, and a line says how many.
    Rows that are the same are taken once; a hash decides whether one is among the `test_share` to test on, where the data
    have no test rows of their own. token_groups: {name: pattern}, see trainer.output_drift. validation: the share of the
    samples to learn from that is held out, the last ones. No choice depends on the seed. The loss is in nats a token.
    """
    in_range("stream.length", length, 2)
    in_range("stream.test_share", test_share, 0.001, 0.9)
    in_range("stream.samples_per_task", samples_per_task, 1)
    in_range("stream.test_samples", test_samples, 1)
    one_of("stream.learn_from", learn_from, LEARN_FROM)
    one_of("stream.right", right, RIGHT)
    if not prompt:
        raise UsageError("stream.prompt=[]: expected the name of a column, or several.")
    known = places(path)
    names = chosen(known, tasks, held_out)
    tokens = tokens_for(tokenizer)
    reading = _Reading(
        tokens, renderer(template, tokenizer), (prompt, completion, messages), learn_from, length,
        (samples_per_task, test_samples), test_share,
    )  # fmt: skip
    objective = Classification(whole=right == "answer")
    made = []
    for t, name in enumerate(names):
        train, test = (side.source(t, device) for side in reading(name, Rows(known[name], encoding)))
        made.append(Task(t, f"{t}: {name}", (), train, test, objective=objective))
    suites = []
    for name in held_out:
        test = reading(name, Rows(known[name], encoding), learned=False)[1]
        suites.append(Suite(name, test.source(0, device), objective=objective))
    stream = TaskStream(
        f"instructions_{stem(path)}",
        "domain",
        tuple(made),
        tokens.size,
        (length,),
        online,
        tuple(suites),
        groups=partial(groups_of, tokens, token_groups),
        tokens=tokens,
        writing=tokens.writing(),
    )
    return keep(stream, validation=validation)


class _Side:
    """The samples to learn from, or to test on, up to a limit."""

    def __init__(self, limit: int | None):
        self.limit = limit
        self.x: list[torch.Tensor] = []
        self.y: list[torch.Tensor] = []

    @property
    def full(self) -> bool:
        return len(self.x) == self.limit

    def source(self, task: int, device: str) -> TensorSource:
        x, y = (torch.stack(side).to(device) for side in (self.x, self.y))
        return TensorSource(x, y, torch.arange(len(x)), task)


@dataclass
class _Reading:
    """Reads a task's rows into samples."""

    tokens: Tokens
    render: Render
    keys: Keys
    learn_from: str
    length: int
    limits: tuple[int | None, int | None]
    share: float

    def __call__(self, name: str, rows: Rows, learned: bool = True) -> tuple[_Side, _Side]:
        sides, seen, cut = (_Side(self.limits[0] if learned else 0), _Side(self.limits[1])), set[bytes](), 0
        for where, row, side in tqdm(rows(), desc=f"reading {name}", unit=" rows", leave=False, delay=2):
            parts, templated = stretches(row, self.keys, where, self.render, self.learn_from != "last")
            mark = hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
            held_out = int.from_bytes(mark[:4], "big") < self.share * 2**32 if side is None else side
            if mark in seen or sides[held_out].full:
                continue
            seen.add(mark)
            sample = self._sample(parts, templated)
            if sample is None:
                cut += 1
                continue
            sides[held_out].x.append(sample[0])
            sides[held_out].y.append(sample[1])
            if all(each.full for each in sides):
                break
        for each, what in zip(sides, ("learn from", "test on"), strict=True):
            if not each.x and each.limit != 0:
                raise UsageError(
                    f"{name}: no rows to {what}, of {len(seen)} different ones, of which {cut} have a prompt that fills "
                    f"stream.length={self.length}. Expected more rows, a longer length, or another stream.test_share."
                )
        if cut:
            tqdm.write(
                f"{name}: {cut} of {len(seen)} rows left out: their prompt fills stream.length={self.length}.",
                sys.stderr,
            )
        return sides

    def _sample(self, parts: list[tuple[str, bool]], templated: bool) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return x and y [length], filled up where the row is shorter; None where no token of an answer is left."""
        ids, answer = self.tokens.marked(parts, ends=not templated)
        ids, answer = ids[: self.length + 1], answer[: self.length + 1]
        counts = [True] * len(ids) if self.learn_from == "all" else answer
        if not any(counts[1:]) or not any(answer[1:]):
            return None
        x, y = torch.full((self.length,), self.tokens.end), torch.full((self.length,), IGNORED)
        x[: len(ids) - 1] = torch.tensor(ids[:-1])
        y[: len(ids) - 1] = torch.where(torch.tensor(counts[1:]), torch.tensor(ids[1:]), IGNORED)
        return x, y
