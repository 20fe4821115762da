"""Which classes are a task."""

from collections.abc import Sequence
from typing import Any

import torch

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.rng import generator


def class_groups(
    classes: int, tasks: int, classes_per_task: int | None, class_order: Any, seed: int, *, repeat: bool = False
) -> list[list[int]]:
    """Return the classes of each task (all of them for each with `repeat`).

    class_order: natural, random (by seed), a list of classes, or a list of lists, which are the tasks themselves. UsageError
    where the classes do not divide among the tasks or one comes twice. Says so where classes are left out.
    """
    in_range("stream.tasks", tasks, 1)
    if not isinstance(class_order, str) and (
        not isinstance(class_order, Sequence) or not _whole_numbers(class_order) or not len(class_order)
    ):
        raise UsageError(
            f"stream.class_order={class_order}: expected natural, random, a list of classes such as [3,1,0,2], or of lists of "
            "them, a task each, such as [[0,1],[2,3,4]]."
        )
    groups = _class_groups(classes, tasks, classes_per_task, class_order, seed, repeat)
    used = {c for group in groups for c in group}
    if len(used) < classes:
        print(f"frostline: the stream takes {len(used)} of the {classes} classes; {classes - len(used)} are left out.")
    return groups


def _whole_numbers(values: Sequence[Any]) -> bool:
    flat = [
        v for part in values for v in (part if isinstance(part, Sequence) and not isinstance(part, str) else [part])
    ]
    return all(isinstance(v, int) and not isinstance(v, bool) for v in flat)


def _class_groups(
    classes: int, tasks: int, classes_per_task: int | None, class_order: Any, seed: int, repeat: bool
) -> list[list[int]]:
    if isinstance(class_order, str):
        one_of("stream.class_order", class_order, ("natural", "random"))
        order = list(range(classes))
        if class_order == "random":
            order = torch.randperm(classes, generator=generator(seed, "class order")).tolist()
    elif all(isinstance(part, Sequence) for part in class_order):
        groups = [list(part) for part in class_order]
        flat = [c for group in groups for c in group]
        if repeat or len(set(flat)) != len(flat) or not set(flat) <= set(range(classes)) or not all(groups):
            raise UsageError(
                f"stream.class_order={groups}: expected different classes out of 0..{classes - 1} in each task."
            )
        if tasks not in (5, len(groups)) or classes_per_task is not None:  # 5 is what nobody set
            raise UsageError(
                f"stream.class_order names {len(groups)} tasks itself. Leave out stream.tasks and stream.classes_per_task."
            )
        return groups
    else:
        order = list(class_order)
        if len(set(order)) != len(order) or not set(order) <= set(range(classes)):
            raise UsageError(f"stream.class_order={order}: expected different classes out of 0..{classes - 1}.")
    if repeat:
        return [order] * tasks
    if classes_per_task is None:
        if len(order) % tasks:
            fits = [n for n in range(1, len(order) + 1) if len(order) % n == 0]
            best = min(fits, key=lambda n: abs(n - tasks))
            raise UsageError(
                f"stream.tasks={tasks}: {len(order)} classes are not divisible by {tasks} tasks. The nearest number of "
                f"tasks that divides them is {best}; or set stream.classes_per_task."
            )
        classes_per_task = len(order) // tasks
    in_range("stream.classes_per_task", classes_per_task, 1)
    if classes_per_task * tasks > len(order):
        raise UsageError(
            f"stream.classes_per_task={classes_per_task} times stream.tasks={tasks} is more than the {len(order)} "
            f"classes there are. The nearest valid value is {len(order) // tasks}."
        )
    return [order[t * classes_per_task : (t + 1) * classes_per_task] for t in range(tasks)]
