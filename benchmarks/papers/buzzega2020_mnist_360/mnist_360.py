"""MNIST-360 (Buzzega et al. 2020, section 5): digits in pairs that turn as they come."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from frostline.core.rng import generator
from frostline.core.types import TaskStream
from frostline.streams.datasets import load
from frostline.streams.own import from_tasks

DIGITS, ROUNDS = 9, 3  # 0 to 8; each round has the pairs 01, 12, ..., 78, 80


def mnist_360(
    data_root: str = "data", download: bool = False, seed: int = 0, device: str = "cpu", per_class: int | None = None
) -> TaskStream:
    """Return MNIST-360: a task for each pair of digits in each round, all of them with the whole test data.

    Every image of a digit is turned a little further than the one before it, once around in the three rounds. Within a
    pair images come in any order here; the authors' come in the order of their angles. A test image of each digit is
    turned by its share of a full turn. per_class: images of each digit to learn from, all where None.
    """
    data = load("mnist", data_root, download, "unit")
    chunks = 2 * ROUNDS  # a digit comes in two pairs of each round
    queues: list[list[tuple[Tensor, Tensor]]] = []
    for digit in range(DIGITS):
        rows = (data.y_train == digit).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=generator(seed, "mnist_360", digit))][:per_class]
        turns = (torch.arange(len(rows)) / len(rows) + (digit - 1) / chunks) * 360
        queues.append(list(zip(rows.tensor_split(chunks), turns.tensor_split(chunks), strict=True)))
    chosen = [(data.y_test == digit).nonzero().squeeze(1) for digit in range(DIGITS)]
    shown = torch.cat([_turned(data.x_test[rows], torch.arange(len(rows)) / len(rows) * 360) for rows in chosen])
    test = (shown, torch.cat([data.y_test[rows] for rows in chosen]))
    tasks = []
    for pair in [(d, (d + 1) % DIGITS) for _ in range(ROUNDS) for d in range(DIGITS)]:
        parts = [queues[digit].pop(0) for digit in pair]
        x = torch.cat([_turned(data.x_train[rows], turns) for rows, turns in parts])
        tasks.append(((x, torch.cat([data.y_train[rows] for rows, _ in parts])), test))
    return from_tasks(tasks, scenario="domain", classes=10, name="mnist_360", device=device)


def _turned(x: Tensor, degrees: Tensor) -> Tensor:
    angles = degrees.float() * (math.pi / 180)
    c, s = angles.cos(), angles.sin()
    matrix = torch.stack([torch.stack([c, -s, 0 * c], 1), torch.stack([s, c, 0 * c], 1)], 1)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", align_corners=False)  # as torchvision does where nothing else is said
