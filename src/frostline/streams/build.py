"""Task streams over a data set: its classes split among the tasks, its pixels permuted, its images rotated."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.digests import remember, row_digests
from frostline.core.rng import generator
from frostline.core.sources import TensorSource
from frostline.core.types import TaskStream
from frostline.streams.arrival import Arrival
from frostline.streams.assembling import TASK_BY_TASK, MakeSource, assemble
from frostline.streams.datasets import DataSet, load
from frostline.streams.groups import class_groups

KINDS = ("split", "permuted", "rotated")
ANGLES = ("even", "within", "random")


def from_arrays(
    dataset: str,
    kind: str = "split",
    tasks: int = 5,
    scenario: str = "class",
    classes_per_task: int | None = None,
    class_order: Any = "natural",
    max_angle: float = 180.0,
    angles: str = "even",
    interpolation: str = "bilinear",
    validation: float = 0.0,
    samples_per_class: int | None = None,
    samples_per_task: int | None = None,
    test_samples_per_class: int | None = None,
    online: bool = False,
    scaling: str = "standard",
    data_root: str = "data",
    download: bool = False,
    arrival: Arrival | str = TASK_BY_TASK,
    seed: int = 0,
    device: str = "cpu",
) -> TaskStream:
    """Return a stream over a data set that fits on the training device.

    kind: 'split' gives each task its own group of classes; 'permuted' gives each all classes with the pixels in an order of
    its own, the first task's natural (Goodfellow et al. 2013); 'rotated' turns task t by t * max_angle / tasks degrees, or
    with other `angles` by one drawn from its own of `tasks` equal ranges ('within', as Lopez-Paz & Ranzato 2017) or from
    all of them ('random', as Buzzega et al. 2020). interpolation: bilinear, or 'nearest', as torchvision turns images where
    nothing else is said. scenario: 'class' decides among all classes seen so far, 'task' among the task's own, 'domain'
    asks for the place within the task with the task unknown. class_order: 'natural', 'random' (by seed) or a list of
    classes. validation: share of each task's training samples held out. samples_per_*: training samples kept;
    test_samples_per_class: test samples kept. online: the trainer may pass over the data only once. scaling: of the pixels,
    see datasets.load. arrival: how samples come.
    """
    one_of("stream.kind", kind, KINDS)
    in_range("stream.tasks", tasks, 1)
    in_range("stream.max_angle", max_angle, 0, 360)
    one_of("stream.angles", angles, ANGLES)
    one_of("stream.interpolation", interpolation, ("bilinear", "nearest"))
    if kind != "split" and classes_per_task is not None:
        raise UsageError(f"stream.classes_per_task={classes_per_task}: every task of a {kind} stream has all classes.")
    arrival = Arrival.of(arrival)
    arrival.check(scenario, kind)
    data = _shared(dataset, data_root, download, scaling)
    if kind == "split":
        groups = arrival.groups(data.classes, tasks, classes_per_task, class_order, seed)
    else:
        groups = class_groups(data.classes, tasks, None, class_order, seed, repeat=True)
    transforms: list[Callable[[Tensor], Tensor] | None] = [None] * len(groups)
    if kind == "permuted":
        pixels = data.x_train[0].numel()
        orders = [torch.randperm(pixels, generator=generator(seed, "permutation", t)) for t in range(1, tasks)]
        transforms[1:] = [_Permute(order) for order in orders]
    elif kind == "rotated":
        turns = _turns(angles, tasks, seed)
        transforms = [_Rotate(turn * max_angle, data.black, interpolation) if turn else None for turn in turns]
    make = _resident(data, transforms, device)
    return assemble(
        f"{kind}_{dataset}", groups, scenario, data.y_train, data.y_test, make, tuple(data.x_train.shape[1:]), device,
        validation=validation, samples_per_class=samples_per_class, samples_per_task=samples_per_task,
        test_samples_per_class=test_samples_per_class, online=online, seed=seed, arrival=arrival,
    )  # fmt: skip


def _turns(angles: str, tasks: int, seed: int) -> list[float]:
    """Return how far each task is turned, as a share of the largest angle."""
    drawn = torch.rand(tasks, generator=generator(seed, "angles"), dtype=torch.float64)
    even = torch.arange(tasks, dtype=torch.float64)
    return {"even": even / tasks, "within": (even + drawn) / tasks, "random": drawn}[angles].tolist()


# Runs of a sweep and seeds at once share one copy; nobody writes into it.
_shared = functools.lru_cache(maxsize=1)(load)


class _Permute:
    def __init__(self, order: Tensor):
        self.key = self.order = order

    def __call__(self, x: Tensor) -> Tensor:
        self.order = self.order.to(x.device)
        return x.flatten(1).index_select(1, self.order).view_as(x)


class _Rotate:
    """Turn images about their centre; what comes in from outside is black."""

    def __init__(self, degrees: float, black: Tensor, mode: str):
        self.key: Any = degrees if mode == "bilinear" else (degrees, mode)
        self.mode = mode
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        self.matrix = torch.tensor([[c, -s, 0.0], [s, c, 0.0]])
        self.black = black

    def __call__(self, x: Tensor) -> Tensor:
        black = self.black.to(x.device)
        grid = F.affine_grid(self.matrix.to(x.device).expand(len(x), 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(x - black, grid, mode=self.mode, align_corners=False) + black


def _resident(data: DataSet, transforms: Sequence[Any], device: str) -> MakeSource:
    """Return what makes a source of rows: the images move to the device once and all tasks share them."""
    x = {True: data.x_train.to(device), False: data.x_test.to(device)}
    for train, own in ((True, data.x_train), (False, data.x_test)):
        remember(x[train], row_digests(own))
    return lambda train, rows, y, task: TensorSource(x[train], y, rows, task, transforms[task])
