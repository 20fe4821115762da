"""A stream of the classes of labelled data: which rows each task has, what its labels are, and which classes count."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.rng import generator
from frostline.core.types import Source, Task, TaskStream
from frostline.streams.arrival import Arrival
from frostline.streams.keeping import held_out

TASK_BY_TASK = Arrival()
SCENARIOS = ("class", "task", "domain")
MakeSource = Callable[[bool, Tensor, Tensor, int], Source]  # (train?, rows, labels, task) -> source


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
        held = held_out(y_train[train], validation)
        kept_apart, train = train[held], train[~held]
        rename = torch.full((int(max(y_train.max(), y_test.max())) + 1,), -1)
        rename[torch.tensor(list(plan.names[t]))] = torch.tensor(list(plan.names[t].values()))
        tasks.append(
            Task(
                index=t,
                name=f"{t}: {_span(group, names)}" if several else f"{t}",
                classes=tuple(sorted(labels)),
                train=make(True, train, arrival.labelled(rename[y_train[train]], labels, seed, t), t),
                test=make(False, test, rename[y_test[test]], t),
                validation=make(True, kept_apart, rename[y_train[kept_apart]], t) if len(kept_apart) else None,
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


def _span(group: list[int], names: Sequence[str]) -> str:
    shown = [names[c] for c in group] if names else list(map(str, group))
    folders = {name.rpartition("/")[0] for name in shown}
    if names and len(folders) == 1 and "" not in folders:
        return folders.pop()
    return ",".join(shown) if len(group) <= 4 else f"{shown[0]},{shown[1]}..{shown[-1]}"
