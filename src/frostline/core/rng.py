"""Random numbers that belong to somebody: every stream of them is named, none is shared."""

import zlib

import numpy as np
import torch


def derive(*keys: int | str) -> int:
    """Return a 63-bit seed that is a pure function of `keys`, e.g. derive(seed, "order", task, epoch)."""
    words = [word for key in keys for word in _words(key)]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _words(key: int | str) -> list[int]:
    """Return the key as 32-bit words, all of them: a seed of 2**32 is not the seed 0."""
    if isinstance(key, str):
        return [zlib.crc32(key.encode())]
    words = [key & 0xFFFFFFFF]
    while key := key >> 32 if key > 0 else 0:
        words.append(key & 0xFFFFFFFF)
    return words


def generator(*keys: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `keys`: the same keys give the same numbers on every machine."""
    return torch.Generator().manual_seed(derive(*keys))
