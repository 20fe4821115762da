"""Digests of data: whether two runs, or the two halves of one, learned from the same.

Every row has a number of its own, the sum of its 64-bit words times odd random factors, modulo 2**64: one changed bit changes
it for certain, any other change but for one chance in 2**64. It guards against mistakes, not against forgery.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from frostline.core.rng import generator
from frostline.core.tensors import digest_of
from frostline.core.types import Source, TaskStream

_KNOWN = WeakTensorKeyDictionary()  # tasks, seeds and runs of a sweep share tensors: each is read once
_CHUNK = 2**23  # words at once


def data_digests(stream: TaskStream) -> dict[str, str]:
    """Return digests of all that is learned from (`train`), of all that is tested on (`test`), and of the whole data `set`.

    The first two are of the samples in their order, which the seed may choose; the last is of what they were chosen from.
    """
    train = [source for task in stream.tasks for source in (task.train, task.validation) if source is not None]
    test = [*(task.test for task in stream.tasks), *(suite.source for suite in stream.suites)]
    whole: dict[int, int] = {}
    for source in (*train, *test):
        whole |= getattr(source, "holds", dict)()
    return {
        "train": combined(map(source_digest, train)),
        "test": combined(map(source_digest, test)),
        "set": f"{sum(whole.values()) % 2**64:016x}",
    }


def source_digest(source: Source) -> str:
    """Return a source's own digest, that of its labels where it has none."""
    own: Any = getattr(source, "digest", None)
    return str(own()) if callable(own) else combined([source.labels])


def combined(parts: Iterable[Any]) -> str:
    """Return one digest of tensors and plain values, in this order."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            total.update(f"{part.dtype} {tuple(part.shape)} ".encode() + digest_of(part))
        else:
            total.update(f"{len(repr(part))}:{part!r}".encode())
    return total.hexdigest()


def row_digests(x: Tensor) -> Tensor:
    """Return the number of each row, int64 [N] on the CPU, remembered until the tensor changes or goes."""
    known: tuple[int, Tensor] | None = _KNOWN.get(x)
    if known is not None and known[0] == x._version:
        return known[1]
    found = [_row_digests(part) for part in x.detach().split(max(1, 8 * _CHUNK // max(1, x[:1].nbytes)))]
    numbers = torch.cat(found).cpu() if found else torch.zeros(0, dtype=torch.int64)
    _KNOWN[x] = (x._version, numbers)
    return numbers


def remember(x: Tensor, numbers: Tensor) -> None:
    """Let a tensor's rows have these numbers: those of the data it was made from, if that rounds differently elsewhere."""
    _KNOWN[x] = (x._version, numbers)


def _row_digests(x: Tensor) -> Tensor:
    octets = x.reshape(len(x), -1).contiguous().view(torch.uint8)
    words = F.pad(octets, (0, -octets.shape[1] % 8)).contiguous().view(torch.int64)
    factors = torch.randint(-(2**62), 2**62, (words.shape[1],), generator=generator("digest", words.shape[1])) * 2 + 1
    numbers = (words * factors.to(words.device)).sum(1)
    return numbers * 0x2545F4914F6CDD1D ^ (numbers >> 31)  # else two rows with the same change would cancel in a sum
