"""Random numbers that belong to somebody: every stream of them is named, none is shared."""

import zlib

import numpy as np
import torch


def derive(*keys: int | str) -> int:
    """Return a 63-bit seed that is a pure function of `keys`, e.g. derive(seed, "order", task, epoch)."""
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else k for k in keys]
    state = np.random.SeedSequence([w & 0xFFFFFFFF for w in words]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def generator(*keys: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `keys`: the same keys give the same numbers on every machine."""
    return torch.Generator().manual_seed(derive(*keys))
