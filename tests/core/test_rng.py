"""Seeds of any size are different seeds."""

import torch

from frostline.core.rng import derive, generator


def test_every_bit_of_a_seed_counts():
    seeds = [0, 1, 2**32, 2**32 + 1, 2**33, 2**63, 2**64]
    assert len({derive(seed, "model") for seed in seeds}) == len(seeds)
    first, second = (torch.rand(3, generator=generator(seed, "order")) for seed in (0, 2**32))
    assert not torch.equal(first, second)


def test_numbers_stay_what_they_were():
    """The same keys give the same numbers in every version: published runs can be repeated."""
    assert derive(3, "order", 1, 2) == 7333115515244026955
