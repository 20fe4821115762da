"""Held-out suites: the test data of other streams, evaluated after every task and never learned from."""

import torch

from frostline.core.checks import UsageError
from frostline.core.joining import joined
from frostline.core.types import Suite, TaskStream


def suite_of(name: str, other: TaskStream, stream: TaskStream) -> Suite:
    """Return all test data of `other` as a suite of `stream`; UsageError where the model could not answer it.

    It is decided among the classes that it has itself, whichever the model has learned by then.
    """
    if other.shape != stream.shape or other.classes > stream.classes:
        raise UsageError(
            f"held_out={name}: samples of shape {list(other.shape)} in {other.classes} classes. Expected data like those of "
            f"{stream.name}: shape {list(stream.shape)}, at most {stream.classes} classes."
        )
    if other.objective != stream.objective:
        raise UsageError(f"held_out={name}: it asks for {other.objective}, {stream.name} for {stream.objective}.")
    visible = None
    if any(task.visible is not None for task in other.tasks):
        found = torch.tensor(sorted({c for task in other.tasks for c in task.classes}))
        visible = torch.zeros(stream.classes, dtype=torch.bool)
        visible[found] = True
        mask = next(task.visible for task in other.tasks if task.visible is not None)
        visible = visible.to(mask.device)
    return Suite(name, joined([task.test for task in other.tasks]), visible, stream.objective)
