"""Task streams over a data set: its classes split among the tasks, its pixels permuted, its images rotated."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.digests import remember, row_digests
from frostline.core.rng import generator
from frostline.core.sources import TensorSource
from frostline.core.types import Source, Task, TaskStream
from frostline.streams.arrival import Arrival
from frostline.streams.datasets import DataSet, load
from frostline.streams.groups import class_groups

TASK_BY_TASK = Arrival()
KINDS = ("split", "permuted", "rotated")
ANGLES = ("even", "within", "random")
SCENARIOS = ("class", "task", "domain")
MakeSource = Callable[[bool, Tensor, Tensor, int], Source]  # (train?, rows, labels, task) -> source


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


def assemble(
    name: str,
    groups: list[list[int]],
    scenario: str,
    y_train: Tensor,
    y_test: Tensor,
    make: MakeSource,
    shape: tuple[int, ...],
    device: str,
    *,
    validation: float = 0.0,
    samples_per_class: int | None = None,
    samples_per_task: int | None = None,
    test_samples_per_class: int | None = None,
    online: bool = False,
    seed: int = 0,
    names: Sequence[str] = (),
    arrival: Arrival = TASK_BY_TASK,
) -> TaskStream:
    """Return the stream of `groups` of classes: label maps, visible classes, training subsets, validation shares.

    validation: the share of each class that is held out, of which at least one sample stays. names: of the classes.
    arrival: how samples come, see there; where a class comes in several tasks, a task's test data are those of its own.
    """
    one_of("stream.scenario", scenario, SCENARIOS)
    in_range("stream.validation", validation, 0, 0.9)
    in_range("stream.samples_per_class", samples_per_class, 1)
    in_range("stream.samples_per_task", samples_per_task, 1)
    in_range("stream.test_samples_per_class", test_samples_per_class, 1)
    arrival.check(scenario)
    plan = _plan(groups, scenario, y_train, samples_per_class, samples_per_task, seed, arrival)
    visible = visible_classes(plan.labels, plan.classes, scenario, device)
    several = len({tuple(group) for group in plan.own}) > 1
    tasks = []
    for t, (train, group, labels) in enumerate(zip(plan.rows, plan.own, plan.labels, strict=True)):
        test = _pick(y_test, group, test_samples_per_class, None, seed, t)
        if not len(train) or not len(test):
            raise UsageError(f"Task {t} with classes {group} has {len(train)} training and {len(test)} test samples.")
        held = _held_out(y_train[train], validation)
        held_out, train = train[held], train[~held]
        rename = torch.full((int(max(y_train.max(), y_test.max())) + 1,), -1)
        rename[torch.tensor(list(plan.names[t]))] = torch.tensor(list(plan.names[t].values()))
        tasks.append(
            Task(
                index=t,
                name=f"{t}: {_span(group, names)}" if several else f"{t}",
                classes=tuple(sorted(labels)),
                train=make(True, train, arrival.labelled(rename[y_train[train]], labels, seed, t), t),
                test=make(False, test, rename[y_test[test]], t),
                validation=make(True, held_out, rename[y_train[held_out]], t) if len(held_out) else None,
                visible=visible[t],
            )
        )
    known = tuple(map(str, names[: plan.classes])) if plan.labels == plan.own else ()
    return TaskStream(name, scenario, tuple(tasks), plan.classes, shape, online, class_names=known)


class Plan(NamedTuple):
    """What each task is made of: its training rows, its test classes, its training labels, and each class's label there."""

    rows: list[Tensor]
    own: list[list[int]]
    labels: list[list[int]]
    names: list[dict[int, int]]
    classes: int  # number of logits


def _plan(
    groups: list[list[int]],
    scenario: str,
    y: Tensor,
    per_class: int | None,
    per_task: int | None,
    seed: int,
    arrival: Arrival,
) -> Plan:
    """Return the tasks of `groups`, or what else the arrival makes of the classes."""
    keep = arrival.kept(y, groups, seed)
    if arrival.by_tasks:
        labels, classes = _label_maps(groups, scenario)
        rows = [_pick(y, group, per_class, per_task, seed, t, keep) for t, group in enumerate(groups)]
        return Plan(
            rows, groups, labels, [dict(zip(*pair, strict=True)) for pair in zip(groups, labels, strict=True)], classes
        )
    dealt = arrival.deal(y, keep, groups, per_class, seed)
    rows = [part[:per_task] for part in dealt.rows]
    every = {c: c for group in groups for c in group}  # a class is the same one in whatever task it comes
    return Plan(rows, dealt.own, [y[part].unique().tolist() for part in rows], [every] * len(rows), max(every) + 1)


def _label_maps(groups: list[list[int]], scenario: str) -> tuple[list[list[int]], int]:
    """Return the label of each class of each task, and how many logits there are."""
    if scenario == "domain":
        return [list(range(len(group))) for group in groups], max(map(len, groups))
    flat = [c for group in groups for c in group]
    if len(set(flat)) == len(flat):
        return [list(group) for group in groups], max(flat) + 1
    width = max(map(len, groups))  # the same classes come again: as another task's they are others
    return [[t * width + place for place in range(len(group))] for t, group in enumerate(groups)], width * len(groups)


def visible_classes(labels: list[list[int]], classes: int, scenario: str, device: str) -> list[Tensor | None]:
    """Return each task's mask, Task.visible: [C] of the classes so far, or one [T, C] of each task's own for all of them."""
    if scenario == "domain":
        return [None] * len(labels)
    own = torch.zeros(len(labels), classes, dtype=torch.bool)
    for t, group in enumerate(labels):
        own[t, torch.tensor(group)] = True
    if scenario == "task":
        return [own.to(device)] * len(labels)
    return list((own.cumsum(0) > 0).to(device))


def _pick(
    y: Tensor,
    group: list[int],
    per_class: int | None,
    per_task: int | None,
    seed: int,
    task: int,
    keep: Tensor | None = None,
) -> Tensor:
    """Return the rows of the task's classes, of those kept, in a random order that depends on (seed, task) alone."""
    own = torch.isin(y, torch.tensor(group))
    rows = (own if keep is None else own & keep).nonzero().squeeze(1)
    rows = rows[torch.randperm(len(rows), generator=generator(seed, "subset", task))]
    if per_class is not None:
        rows = torch.cat([rows[y[rows] == c][:per_class] for c in group])
        rows = rows[torch.randperm(len(rows), generator=generator(seed, "mix", task))]
    return rows if per_task is None or per_task >= len(rows) else rows[_first_of_each(y[rows], per_task)]


def _first_of_each(y: Tensor, count: int) -> Tensor:
    """Return the first `count` places, of which the last give way to the first of a class that would have none."""
    firsts = torch.tensor([int((y == label).nonzero()[0]) for label in y.unique()])
    if len(firsts) > count:
        raise UsageError(
            f"stream.samples_per_task={count}: a task has {len(firsts)} classes. Expected as many or more."
        )
    kept = torch.zeros(len(y), dtype=torch.bool)
    kept[firsts] = True
    kept[(~kept).nonzero().squeeze(1)[: count - len(firsts)]] = True
    return kept.nonzero().squeeze(1)


def _held_out(y: Tensor, share: float) -> Tensor:
    """Return which samples are held out, bool [n]: the first of each class, so that a small class keeps some."""
    held = torch.zeros(len(y), dtype=torch.bool)
    for label in y.unique():
        rows = (y == label).nonzero().squeeze(1)
        held[rows[: min(int(share * len(rows)), len(rows) - 1)]] = True
    return held


def _span(group: list[int], names: Sequence[str]) -> str:
    shown = [names[c] for c in group] if names else list(map(str, group))
    folders = {name.rpartition("/")[0] for name in shown}
    if names and len(folders) == 1 and "" not in folders:
        return folders.pop()
    return ",".join(shown) if len(group) <= 4 else f"{shown[0]},{shown[1]}..{shown[-1]}"
