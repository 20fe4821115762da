"""Run: what a run is made of, how far it has come, and who watches it."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError
from frostline.core.objectives import PIECE, Classification
from frostline.core.tensors import to_device
from frostline.core.types import TaskStream
from frostline.costs import CostMeter
from frostline.loop.backend import Backend
from frostline.loop.precision import casting
from frostline.loop.progress import Progress
from frostline.loop.rehearsal import Rehearsal
from frostline.loop.schedules import Constant, Schedule
from frostline.loop.settings import TrainerConfig
from frostline.selectors.base import Selector
from frostline.strategies.base import Strategy
from frostline.streams.augmentation import Augmentation


class Diverged(UsageError):
    """The loss is no longer a finite number, in the run of this folder."""

    def __init__(self, message: str, folder: Path | None = None):
        super().__init__(message)
        self.folder = folder


@dataclass
class Moment:
    """Where the loop is, for whoever watches.

    step: of `steps` in the epoch. steps_taken: since the run began. done: share of the part of the task. rate: the
    optimizer's first. gradient_norm: of all that trains. flops, seconds: what learning has cost since the run began.
    """

    task: int
    part: int
    epoch: int
    step: int
    steps: int
    steps_taken: int
    done: float
    loss: float
    rate: float
    gradient_norm: float
    flops: int
    seconds: float
    samples_per_second: float


class Observer:
    """Somebody who watches a run; every method may stay as it is."""

    def started(self, run: "Run") -> None:
        """The run begins or goes on."""

    def progress(self, run: "Run", moment: Moment) -> None:
        """Called about twice a second while training."""

    def task_done(self, run: "Run", index: int) -> None:
        """Task `index` is learned and evaluated."""

    def finished(self, content: dict[str, Any], folder: Path) -> None:
        """The run is complete; `content` is that of result.json, and the figures are in folder/figures."""

    def close(self) -> None:
        """The run is over, well or not."""


@dataclass
class Run:
    """What a run is made of (fixed), its progress (what a checkpoint holds), and what it has at hand meanwhile.

    data: digests of what it learns from and is tested on. folder: its own; None: results stay in memory, and what does not
    fit there goes to a temporary file.
    """

    model: nn.Module
    stream: TaskStream
    strategy: Strategy
    selector: Selector
    optimizer: Callable[..., torch.optim.Optimizer]
    meter: CostMeter
    settings: TrainerConfig
    backend: Backend
    seed: int = 0
    schedule: Schedule = field(default_factory=Constant)
    reference_steps: int = 3
    save: Callable[[dict[str, Any]], None] | None = None
    observers: Sequence[Observer] = ()
    folder: Path | None = None
    data: dict[str, str] = field(default_factory=dict)
    settle: Callable[[], None] | None = None  # lets what was saved count, where it does not at once

    progress: Progress = field(default_factory=Progress)

    open_optimizer: torch.optim.Optimizer | None = None
    resumed_optimizer: dict[str, Any] | None = None
    step_flops: dict[tuple, tuple[int, int]] = field(default_factory=dict)
    evaluation_flops: dict[tuple, int] = field(default_factory=dict)
    draws: list[Tensor] | None = None  # this run's random state, CPU and GPU, where other runs use the generators too
    saved_at: float = 0.0  # when a checkpoint was taken last, by time.monotonic, and in how many seconds
    saving_took: float = 0.0
    groups: dict[str, Tensor] | None = None  # of words, whose mass is watched
    rehearsal: Rehearsal | None = None  # not None: a dry run
    _drawing: bool = False

    def __post_init__(self) -> None:
        self.settings.check()
        Augmentation(self.settings.augment)  # refuses what it does not know

    def keep_draws(self) -> None:
        """Make the present state of torch's generators this run's own."""
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        self.draws = [torch.get_rng_state(), *cuda]

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Let torch's generators go on from where this run left them, where several runs share them."""
        if self.draws is None or self._drawing:
            yield
            return
        torch.set_rng_state(self.draws[0])
        if len(self.draws) > 1:
            torch.cuda.set_rng_state(self.draws[1], self.device)
        self._drawing = True
        try:
            yield
        finally:
            self._drawing = False
            self.keep_draws()

    @property
    def finished(self) -> bool:
        """Whether every task of the stream is learned."""
        return self.progress.task == len(self.stream)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def eval_batch_size(self) -> int:
        """How many samples are evaluated at once: what fits a CPU's caches unless trainer.eval_batch_size says otherwise.

        Of texts in which every token asks for a word, as many as make 2^24 logits at most.
        """
        most = 128 if self.device.type == "cpu" else 1024
        if (targets := self.stream.targets) > 1 and isinstance(self.stream.objective, Classification):
            most = min(most, max(1, PIECE // (targets * self.stream.classes)))
        return self.settings.eval_batch_size or most

    @property
    def shape(self) -> str:
        """The shapes of all that the model holds, as one word: what prices hold for, since a model may grow."""
        shapes = repr([(name, tuple(t.shape)) for name, t in self.model.state_dict().items()])
        return hashlib.blake2b(shapes.encode(), digest_size=8).hexdigest()

    def casting(self) -> AbstractContextManager:
        """Return what this run's forward passes run in."""
        return casting(self.settings.precision, self.device)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on."""
        return {
            "progress": self.progress.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": None if self.open_optimizer is None else self.open_optimizer.state_dict(),
            "strategy": self.strategy.state_dict(),
            "selector": self.selector.state_dict(),
            "meter": self.meter.state_dict(),
            "backend": self.backend.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.progress = Progress.from_state(state["progress"])
        for index in range(self.progress.prepared):
            self.strategy.prepare(self.model, index)
        self.model.load_state_dict(state["model"])
        self.resumed_optimizer = state["optimizer"]
        self.strategy.load_state_dict(to_device(state["strategy"], self.device))
        self.selector.load_state_dict(to_device(state["selector"], self.device))
        self.meter.load_state_dict(state["meter"])
        self.backend.load_state_dict(state["backend"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)


def take_checkpoints(runs: Sequence[Run]) -> None:
    """Save the states of runs that learn together, where there is somewhere to save them to; all count, or none does."""
    begin = time.monotonic()
    for run in runs:
        if run.save is not None:
            with run.drawing():
                run.save(run.state_dict())
    for run in runs:
        if run.settle is not None:
            run.settle()
    for run in runs:
        run.saved_at = time.monotonic()
        run.saving_took = run.saved_at - begin
