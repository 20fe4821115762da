"""Progressive networks: a column of units for each task."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from frostline.core.columns import Columns, in_columns
from frostline.core.rng import generator
from frostline.core.tensors import tensor_bytes
from frostline.core.types import Task, TaskStream
from frostline.core.units import needs_perceptron
from frostline.strategies.base import Strategy, needs_classes, needs_task_labels


@dataclass
class PNN(Strategy):
    """Add a column of hidden units for each task, which reads all earlier columns, and leave those alone (Rusu et al. 2016).

    arXiv 1606.04671. What a unit takes from the columns before is linear, equation 1 of the paper; its adapters, layers
    between the columns, are left out. A column is as wide as the net was. A task is decided by its own column, so this needs a
    task-incremental stream, and nothing is forgotten; a perceptron, and a selector that thaws whole layers. Adds a forward
    pass through the columns before to a step. Stores a column a task, which grows with their number.
    """

    name: ClassVar[str] = "pnn"
    steady = False

    seed: int = 0

    def __post_init__(self) -> None:
        self._layers: list[Columns] = []

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        needs_classes("pnn", stream)
        needs_task_labels("pnn", "column", stream)
        needs_perceptron("pnn", model)

    def prepare(self, model: nn.Module, index: int) -> None:
        """Give the net a column for task `index`, and compute it up to there."""
        self._layers = in_columns(model)
        for place, layer in enumerate(self._layers):
            if len(layer.columns) <= index:
                layer.grow(generator(self.seed, "pnn", place, index))
        self._activate(index)

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Say that the net's shape is the task's."""
        yield

    @contextmanager
    def serving(self, model: nn.Module, task: Task | None) -> Iterator[None]:
        """Decide a task with its own column, what comes later or is no task with the latest."""
        now, latest = self._layers[0].active, len(self._layers[0].columns) - 1
        self._activate(latest if task is None else min(task.index, latest))
        try:
            yield
        finally:
            self._activate(now)

    def stored_bytes(self) -> int:
        """Return the bytes of the columns after the first."""
        later = [column for layer in self._layers for column in layer.columns[1:]]
        return sum(tensor_bytes(list(column.parameters())) for column in later)

    def remembered(self) -> None:
        """Say that nothing can be cached: the net before the head is another one in each task."""

    def _activate(self, column: int) -> None:
        for layer in self._layers:
            layer.active = column
