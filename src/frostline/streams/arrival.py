"""How the samples of a stream come: task by task, or as the world brings them; how unequal, and how well labelled."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.rng import derive, generator
from frostline.streams.groups import class_groups

HOW = ("tasks", "chunks", "repeated", "blurry", "si_blurry")


class Dealt(NamedTuple):
    """The training rows of each task, and the classes whose test samples are a task's own."""

    rows: list[Tensor]
    own: list[list[int]]


@dataclass(frozen=True)
class Arrival:
    """When a class's training samples come, and which of them.

    how: 'tasks', all with their task. 'chunks', every class in every task, each sample in one of them (data-incremental).
    'repeated': a class comes first in its task, and again in each later one with the chance `repetition`; its samples are
    dealt among these, none twice (class-incremental with repetition, Hemati et al. 2023, arXiv 2301.11396). 'blurry': a share
    `disjoint` of the classes comes with its task, the others have a share `blur` of their samples in the other tasks (i-Blurry,
    Koh et al. 2022, arXiv 2110.10031). 'si_blurry': besides, the number of classes of a task is drawn, and the blurred
    samples are dealt by lot (Moon et al. 2023, Si-Blurry; there a task may get no class, here each has one).

    imbalance: of a long tail: how many times as many samples the most frequent class has as the rarest, falling
    exponentially (Cao et al. 2019, arXiv 1906.07413). tail: 'random' draws which classes are rare, 'ordered' makes it the later
    ones. label_noise: the share of training labels that are another class of the task, drawn evenly. Test data stay so.
    """

    how: str = "tasks"
    disjoint: float = 0.5
    blur: float = 0.1
    repetition: float = 0.5
    imbalance: float = 1.0
    tail: str = "random"
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        one_of("stream.arrival.how", self.how, HOW)
        one_of("stream.arrival.tail", self.tail, ("random", "ordered"))
        for name in ("disjoint", "blur", "repetition"):
            in_range(f"stream.arrival.{name}", getattr(self, name), 0, 1)
        in_range("stream.arrival.imbalance", self.imbalance, 1)
        in_range("stream.arrival.label_noise", self.label_noise, 0, 1)

    @classmethod
    def of(cls, given: "Arrival | str") -> "Arrival":
        """Return what was given; a word alone, as in stream.arrival=blurry, says how, with all else as it is by default."""
        if isinstance(given, Arrival):
            return given
        if not isinstance(given, str):
            raise UsageError(f"stream.arrival={given!r}: expected settings, such as stream.arrival.how=blurry.")
        return cls(given)

    @property
    def by_tasks(self) -> bool:
        """Whether each class comes with its task."""
        return self.how == "tasks"

    def check(self, scenario: str, kind: str = "split") -> None:
        """Raise UsageError where samples of a class come in several tasks, and the stream is to tell the tasks apart."""
        if not self.by_tasks and (scenario != "class" or kind != "split"):
            raise UsageError(
                f"stream.arrival.how={self.how} has samples of a class in several tasks, whose boundaries nobody names. "
                f"Expected stream.scenario=class and a split stream, not stream.scenario={scenario} and a {kind} one."
            )

    def groups(self, classes: int, tasks: int, per_task: int | None, order: Any, seed: int) -> list[list[int]]:
        """Return the classes of each task; 'chunks' and 'si_blurry' take any number of tasks, the latter one class at least."""
        if self.how not in ("chunks", "si_blurry"):
            return class_groups(classes, tasks, per_task, order, seed)
        if per_task is not None:
            raise UsageError(
                f"stream.classes_per_task={per_task}: stream.arrival.how={self.how} deals the classes itself."
            )
        in_range("stream.tasks", tasks, 1, classes if self.how == "si_blurry" else math.inf)
        (whole,) = class_groups(classes, 1, None, order, seed)
        return [whole] + [[]] * (tasks - 1)

    def kept(self, y: Tensor, groups: list[list[int]], seed: int) -> Tensor:
        """Return which of all rows there are, bool [N]: all of them, or a long tail of classes."""
        keep = torch.ones(len(y), dtype=torch.bool)
        classes = list(dict.fromkeys(c for group in groups for c in group))
        if self.imbalance == 1 or len(classes) < 2:
            return keep
        if self.tail == "random":
            order = torch.randperm(len(classes), generator=generator(seed, "tail")).tolist()
            classes = [classes[place] for place in order]
        most = max(int((y == c).sum()) for c in classes)
        for place, c in enumerate(classes):
            rows = (y == c).nonzero().squeeze(1)
            count = max(1, round(most * self.imbalance ** (-place / (len(classes) - 1))))
            keep[rows[torch.randperm(len(rows), generator=generator(seed, "tail rows", c))[count:]]] = False
        return keep

    def deal(self, y: Tensor, keep: Tensor, groups: list[list[int]], per_class: int | None, seed: int) -> Dealt:
        """Return which rows that are kept come in each task, and the test classes of each; for all but 'tasks'."""
        rng = np.random.default_rng(derive(seed, "arrival"))
        count, classes = len(groups), [c for group in groups for c in group]
        if self.how == "si_blurry":  # all classes are in the first group
            cuts = np.sort(rng.choice(np.arange(1, len(classes)), count - 1, replace=False)) if count > 1 else []
            groups = [part.tolist() for part in np.split(rng.permutation(classes), cuts)]
        blurred = set(rng.permutation(classes)[round(self.disjoint * len(classes)) :].tolist())
        rows: list[list[np.ndarray]] = [[] for _ in groups]
        for task, group in enumerate(groups):
            for c in group:
                own = rng.permutation(((y == c) & keep).nonzero().squeeze(1).numpy())[:per_class]
                for t, part in enumerate(self._parts(own, task, count, c in blurred, rng)):
                    rows[t].append(part)
        mixed = [rng.permutation(np.concatenate(parts)) for parts in rows]
        own = [classes] * count if self.how == "chunks" else groups
        return Dealt([torch.from_numpy(part) for part in mixed], own)

    def _parts(
        self, rows: np.ndarray, task: int, count: int, blurred: bool, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Return which of a class's rows come in each task."""
        if self.how == "chunks":
            return np.array_split(rows, count)
        found = [rows[:0]] * count
        if self.how == "repeated":
            when = [task, *(t for t in range(task + 1, count) if rng.random() < self.repetition)]
            for t, part in zip(when, np.array_split(rows, len(when)), strict=True):
                found[t] = part
            return found
        away = round(self.blur * len(rows)) if blurred and count > 1 else 0
        found[task] = rows[away:]
        others = [t for t in range(count) if t != task]
        if self.how == "blurry":
            for t, part in zip(others, np.array_split(rows[:away], len(others)), strict=True):
                found[t] = part
        elif away:
            lots = rng.integers(0, count, away)
            for t in range(count):
                found[t] = np.concatenate([found[t], rows[:away][lots == t]])
        return found

    def labelled(self, y: Tensor, classes: list[int], seed: int, task: int) -> Tensor:
        """Return labels [n] of which a share is wrong: another one of these classes."""
        if not self.label_noise or len(classes) < 2:
            return y
        rng = generator(seed, "label noise", task)
        wrong = torch.randperm(len(y), generator=rng)[: round(self.label_noise * len(y))]
        own = torch.tensor(sorted(classes))
        place = torch.searchsorted(own, y[wrong])
        shift = torch.randint(1, len(own), (len(wrong),), generator=rng)
        found = y.clone()
        found[wrong] = own[(place + shift) % len(own)]
        return found
