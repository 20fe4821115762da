"""What is learned from: batches, sources of batches, tasks and streams of tasks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError
from frostline.core.objectives import Objective, classification

BASE = ("x", "y", "task", "index")


@dataclass(frozen=True)
class Batch:
    """B samples with their targets, the task that each belongs to, and their ids within the stream.

    x [B, ...], y [B] or [B, L] int64 (float for regression), task [B] int64, index [B] int64. columns: whatever else
    belongs to a sample, such as logits stored with it, by name, [B, ...]; rows that came without a column have zeros there.
    """

    x: Tensor
    y: Tensor
    task: Tensor
    index: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def replayed(self) -> Tensor:
        """Which rows come from a memory, bool [B]."""
        mask = self.columns.get("replayed")
        return torch.zeros(len(self), dtype=torch.bool, device=self.y.device) if mask is None else mask

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name."""
        return {**{name: getattr(self, name) for name in BASE}, **self.columns}

    def having(self, **columns: Tensor) -> "Batch":
        """Return the batch with these columns beside its own."""
        return replace(self, columns={**self.columns, **columns})

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device` (itself where it already is)."""
        return batch_of({name: t.to(device, non_blocking=True) for name, t in self.tensors().items()})

    def rows(self, which: Tensor | slice) -> "Batch":
        """Return some of the samples: by place, by mask, or a slice of them."""
        return batch_of({name: t[which] for name, t in self.tensors().items()})

    def cat(self, other: "Batch") -> "Batch":
        """Return both batches as one."""
        return Batch(
            torch.cat((self.x, other.x)),
            torch.cat((self.y, other.y)),
            torch.cat((self.task, other.task)),
            torch.cat((self.index, other.index)),
            {
                name: torch.cat((_column(self, name, other), _column(other, name, self)))
                for name in {**self.columns, **other.columns}
            },
        )


def batch_of(tensors: Mapping[str, Tensor]) -> Batch:
    """Return a batch of what Batch.tensors gave."""
    return Batch(*(tensors[name] for name in BASE), {n: t for n, t in tensors.items() if n not in BASE})  # type: ignore[arg-type]


def _column(batch: Batch, name: str, other: Batch) -> Tensor:
    """Return a column of the batch, zeros where it came without and the other one has it."""
    if name in batch.columns:
        return batch.columns[name]
    return other.columns[name].new_zeros((len(batch), *other.columns[name].shape[1:]))


@runtime_checkable
class Source(Protocol):
    """Data that can be walked through in a given order; where it lives is its own business."""

    def __len__(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Bytes that keeping these samples takes."""
        ...

    @property
    def labels(self) -> Tensor:
        """All targets [N, ...] on the CPU, in index order."""
        ...

    def batches(
        self, size: int, order: Tensor | None = None, start: int = 0, *, samples: bool = True
    ) -> Iterator[Batch]:
        """Yield batches of `size` in `order` (a permutation [N] on the CPU), from batch number `start` on.

        samples: false leaves x empty ([B, 0]) and reads nothing, for whoever knows the samples by their ids.
        """
        ...


def masked(logits: Tensor, visible: Tensor | None) -> Tensor:
    """Return logits [B, ..., C] in which invisible classes ([C] or [B, C] bool) are -inf: they cannot win, learn or unlearn."""
    if visible is None:
        return logits
    for _ in range(logits.ndim - visible.ndim if visible.ndim > 1 else 0):
        visible = visible.unsqueeze(-2)
    return torch.where(visible, logits, -torch.inf)


@dataclass(frozen=True)
class Task:
    """One thing to learn: its data, its classes, and which logits count.

    visible: the classes that count for every sample, [C] bool; or those that count for a sample of each task of the
    stream, [T, C]; None where all do. epochs: passes over the data, None for as many as trainer.epochs, 0 for none.
    """

    index: int
    name: str
    classes: tuple[int, ...]
    train: Source
    test: Source
    validation: Source | None = None
    visible: Tensor | None = None
    objective: Objective = classification
    epochs: int | None = None

    def mask(self, batch: Batch) -> Tensor | None:
        """Return the classes that count: [C] where all samples share them, else each sample's, [B, C]; None where all do."""
        return self.visible if self.visible is None or self.visible.ndim == 1 else self.visible[batch.task]

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return what the model makes of the batch, invisible classes masked."""
        return masked(model(batch.x), self.mask(batch))

    def learning_from(self, train: Source) -> "Task":
        """Return this task with other training data."""
        return replace(self, train=train)


@dataclass(frozen=True)
class Suite:
    """Data that are never learned from and evaluated after every task; `visible` [C]: the classes it is decided among."""

    name: str
    source: Source
    visible: Tensor | None = None
    objective: Objective = classification


class Writing(NamedTuple):
    """What makes text of tokens, and the sequences of tokens of which any ends an answer."""

    decode: Callable[[list[int]], str]
    ends: tuple[tuple[int, ...], ...]


class Vocabulary(Protocol):
    """What makes tokens of texts; `end` ends a text."""

    end: int

    def documents(self, texts: list[str]) -> list[np.ndarray]:
        """Return each text's tokens, with the one that ends it."""
        ...

    @property
    def octets(self) -> Tensor | None:
        """How many bytes of text each token stands for [size]; None where tokens do not say all of a text."""
        ...

    def writing(self) -> Writing:
        """Return what makes text of tokens, and what ends an answer."""
        ...


@dataclass(frozen=True)
class TaskStream:
    """A sequence of tasks; `classes` is the number of logits, `shape` the shape of one sample.

    padding: the token that fills up short texts and is none of them, None where samples are no texts. end: the token that ends
    a document, where tokens are to see those of their own document only. class_names: of each logit, where they are
    known. groups: makes the groups of words whose share of what is said trainer.output_drift watches. writing: of prompts with
    answers, how tokens are read. tokens: what the
    classes are, where they are tokens of text.
    """

    name: str
    scenario: str
    tasks: tuple[Task, ...]
    classes: int
    shape: tuple[int, ...]
    online: bool = False
    suites: tuple[Suite, ...] = ()
    padding: int | None = None
    end: int | None = None
    class_names: tuple[str, ...] = ()
    groups: Callable[[], Mapping[str, tuple[int, ...]]] | None = None
    writing: Writing | None = None
    tokens: Vocabulary | None = None

    def __repr__(self) -> str:
        learned, tested = (sum(len(getattr(task, part)) for task in self.tasks) for part in ("train", "test"))
        return (
            f"<{self.name}: {len(self)} tasks, {self.scenario}-incremental, {learned} samples of shape {list(self.shape)} to "
            f"learn from and {tested} to test on, {self.classes} logits>"
        )

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UsageError("A stream needs at least one task.")
        wrong = [task.index for place, task in enumerate(self.tasks) if task.index != place]
        if wrong:
            raise UsageError(f"The tasks of a stream count from 0 in their order; found the numbers {wrong} elsewhere.")

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index]

    @property
    def targets(self) -> int:
        """How many targets a sample has: one, or one for each token of a text."""
        return self.tasks[0].test.labels[0].numel()

    @property
    def objective(self) -> Objective:
        """What the stream asks of a model."""
        return self.tasks[0].objective

    def visible_at(self, moment: int, task: int) -> Tensor | None:
        """Return the classes [C] among which a test sample of `task` is decided after learning task `moment`.

        A task that has not been learned yet is decided among the classes visible when its own turn comes.
        """
        mask = self.tasks[max(moment, task)].visible
        return mask if mask is None or mask.ndim == 1 else mask[task]
