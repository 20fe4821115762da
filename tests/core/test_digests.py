"""Digests of data: unequal for unequal data, the same for the same, whatever the seed picks of them."""

import subprocess
import sys

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from frostline.core.digests import data_digests, row_digests
from frostline.streams import from_arrays, from_tasks


@hypothesis.given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 20),
    data=st.data(),
    kind=st.sampled_from(["float32", "uint8", "int64"]),
)
@hypothesis.settings(deadline=None, max_examples=200)
def test_one_changed_bit_changes_the_row_and_the_whole(rows, columns, data, kind):
    x = (torch.rand(rows, columns) * 100).to(getattr(torch, kind))
    before = row_digests(x)
    changed = x.clone()
    row = data.draw(st.integers(0, rows - 1))
    octets = changed[row].view(torch.uint8)
    place, bit = data.draw(st.integers(0, len(octets) - 1)), data.draw(st.integers(0, 7))
    octets[place] ^= 1 << bit
    after = row_digests(changed)
    assert before[row] != after[row]
    assert int(before.sum()) != int(after.sum())
    others = torch.arange(rows) != row
    assert torch.equal(before[others], after[others])


def test_a_change_in_place_is_seen():
    x = torch.zeros(3, 4)
    first = row_digests(x)
    x[1, 2] = 1
    assert row_digests(x)[1] != first[1]


def test_the_seed_chooses_samples_but_not_the_set():
    a, b, again = (
        data_digests(from_arrays("digits", class_order="random", samples_per_class=20, seed=seed)) for seed in (0, 1, 0)
    )
    assert a == again
    assert a["set"] == b["set"]
    assert a["train"] != b["train"]


@pytest.mark.parametrize("part", ["x", "y", "rows", "test"])
def test_every_part_counts(part):
    def stream(changed):
        x, y = torch.arange(12.0).view(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])
        held = x.clone()
        if changed == "x":
            x[0, 0] = 5
        elif changed == "y":
            y[0] = 1
        elif changed == "rows":
            x, y = x[:5], y[:5]
        elif changed == "test":
            held[0, 0] = 5
        return data_digests(
            from_tasks([((x, y), (held, torch.zeros(6, dtype=torch.long)))], scenario="domain", classes=2)
        )

    plain, other = stream(None), stream(part)
    assert (plain["train"] != other["train"]) == (part != "test")
    assert (plain["test"] != other["test"]) == (part == "test")


def test_a_transform_is_part_of_the_data():
    digests = [data_digests(from_arrays("digits", "permuted", seed=seed)) for seed in (0, 1, 0)]
    assert digests[0]["train"] != digests[1]["train"]
    assert digests[0] == digests[2]
    angles = [data_digests(from_arrays("digits", "rotated", max_angle=angle)) for angle in (90, 180)]
    assert angles[0]["train"] != angles[1]["train"]


SAY = """
import json, torch
torch.set_num_threads({threads})
from frostline.core.digests import data_digests
from frostline.streams import from_arrays
streams = [from_arrays("fashion_mnist_mini"), from_arrays("digits", "permuted"), from_arrays("digits", "rotated")]
print(json.dumps([data_digests(stream) for stream in streams]))
"""


def test_digests_are_the_same_in_another_process_on_other_threads():
    """Means of pixels round differently there; the digest is of what was read."""
    found = {
        subprocess.run(
            [sys.executable, "-c", SAY.format(threads=threads)], capture_output=True, text=True, check=True
        ).stdout
        for threads in (1, 2)
    }
    assert len(found) == 1
