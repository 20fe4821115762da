"""The plain way: every batch goes through the whole model, every run takes its steps and is evaluated alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from frostline.core.checks import UsageError
from frostline.core.objectives import Classification
from frostline.core.scope import Scope, evaluating
from frostline.core.shadow import Shadows
from frostline.core.step import Step, Weights
from frostline.core.structure import is_staged, piped
from frostline.core.types import Batch, Task
from frostline.loop.backend import Entrance
from frostline.loop.evaluation import evaluate_alone
from frostline.loop.lesson import Lesson
from frostline.loop.optimizing import open_optimizer, set_rates
from frostline.loop.run import Run
from frostline.streams.augmentation import Augmentation


class Whole:
    """The whole model, and random images where trainer.augment asks for them."""

    line = 0
    nbytes = 0

    def __init__(self, run: Run):
        self.run = run
        self.augment = Augmentation(run.settings.augment)
        self.shadows = Shadows(run.model)

    def view(self, batch: Batch) -> Batch:
        """Return the batch with its images drawn."""
        return replace(batch, x=self.augment(batch.x)) if self.augment else batch

    def logits(self, batch: Batch, weights: Weights | None = None) -> Tensor:
        """Return raw logits."""
        model = self.run.model
        with self.run.casting():
            if weights is not None:
                return functional_call(model, dict(weights), (batch.x,)).float()
            if self.run.settings.activation_checkpointing and is_staged(model):
                return model.head(piped(model.stages(), batch.x, again=True)).float()
            return model(batch.x).float()

    def features(self, batch: Batch) -> Tensor:
        """Return what the head makes logits of."""
        assert is_staged(self.run.model)
        with self.run.casting():
            return piped(self.run.model.stages(), batch.x, self.run.settings.activation_checkpointing).float()

    def teach(self, batch: Batch, weights: Weights) -> Tensor:
        """Return raw logits in eval mode."""
        shadow = self.shadows.of(weights)
        if shadow is None:
            with evaluating(self.run.model):
                return self.logits(batch, weights)
        with self.run.casting():
            return shadow(batch.x).float()

    def check(self) -> None:
        """Nothing can have gone wrong unseen."""


class Alone:
    """The steps of one lesson; `compiled` takes the place of the entrance's forward pass, where there is such a one."""

    def __init__(
        self, lesson: Lesson, scope: Scope, optimizer: torch.optim.Optimizer | None = None, compiled: Any = None
    ):
        self.lesson, self.scope, self.optimizer = lesson, scope, optimizer
        self.lessons = [lesson]
        self.entrance = lesson.entrance
        self.call = compiled or self.entrance.logits
        self.steps = [Step(scope, lesson.task, lesson.total, self)]
        self.losses = lesson.losses.unsqueeze(1)
        self.in_pieces = wants_pieces(lesson)

    @property
    def wants_samples(self) -> bool:
        return not self.entrance.line or self.lesson.run.strategy.reads_samples()

    def complete(self, batch: Batch) -> Batch:
        return batch

    def view(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        return [self.entrance.view(batch) for batch in batches]

    def forward(self, batches: Sequence[Batch]) -> Sequence[Tensor]:
        return [self.call(batch) for batch in batches]

    def losses_in_pieces(self, batches: Sequence[Batch]) -> list[Tensor] | None:
        if not self.in_pieces:
            return None
        head: Any = self.lesson.run.model.head
        (batch,), objective = batches, self.lesson.task.objective
        assert isinstance(objective, Classification)
        return [objective.loss_in_pieces(self.entrance.features(batch), head, batch.y)]

    def mask(self, batches: Sequence[Batch], raws: Any) -> Sequence[Tensor]:
        return [step.mask(batch, raw) for step, batch, raw in zip(self.steps, batches, raws, strict=True)]

    def logits(self, batch: Batch, weights: Weights | None = None) -> Tensor:
        return self.entrance.logits(batch, weights)

    def teach(self, batch: Batch, weights: Weights) -> Tensor:
        return self.entrance.teach(batch, weights)

    def state(self, name: str) -> dict[str, Any]:
        return {} if self.optimizer is None else self.optimizer.state[self.scope.parameters[name]]

    def learning_rate(self) -> float:
        return 0.0 if self.optimizer is None else float(self.optimizer.param_groups[0]["lr"])

    def backward(self, losses: Sequence[Tensor] | Tensor, more: bool = False) -> None:
        for p in self.scope.parameters.values() if not more else ():  # the optimizer's own zero_grad takes longer
            p.grad = None
        losses[0].backward()

    def gradients(self, place: int) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.scope.parameters.items() if p.grad is not None}

    def replace_gradients(self, place: int, old: dict[str, Tensor], new: dict[str, Tensor]) -> None:
        for name, g in new.items():
            self.scope.parameters[name].grad = g

    def update(self) -> None:
        assert self.optimizer is not None
        self.optimizer.step()

    def set_rates(self) -> None:
        assert self.optimizer is not None
        self.steps[0].rate = set_rates(self.optimizer, self.lesson, self.scope.parameters)

    def settle(self) -> None:
        """Nothing: the optimizer is the run's own."""

    def close(self) -> None:
        self.entrance.check()


LARGE = 2**26  # bytes of a step's logits from which they are made in pieces


def wants_pieces(lesson: Lesson) -> bool:
    """Tell whether the lesson's loss can be computed without the logits as a whole, and whether that saves memory.

    UsageError where trainer.loss_in_pieces=on and it cannot.
    """
    run, task, settings, targets = lesson.run, lesson.task, lesson.run.settings, lesson.run.stream.targets
    if settings.loss_in_pieces == "off":
        return False
    model: Any = run.model
    why = ""
    if not (is_staged(model) and isinstance(model.head, nn.Linear)):
        why = "the model has no linear head after its stages"
    elif not isinstance(task.objective, Classification) or targets == 1 or task.visible is not None:
        why = "it is for streams in which every token asks for one of all words"
    elif run.strategy.uses("criterion") or run.strategy.uses("penalty"):
        why = "the strategy looks at the logits, or adds to the loss"
    elif settings.sam:
        why = "trainer.sam takes two steps of the whole"
    elif settings.compile not in ("auto", "off"):
        why = f"a compiled step makes them as a whole (trainer.compile={settings.compile})"
    if why and settings.loss_in_pieces == "on":
        raise UsageError(f"trainer.loss_in_pieces=on: {why}. Expected auto, or off.")
    if why or settings.loss_in_pieces == "on":
        return not why
    words, features = model.head.weight.shape
    samples = min(settings.batch_size, settings.micro_batch_size or settings.batch_size)
    return words > features and 4 * samples * targets * words >= LARGE


class Plain:
    """No shortcut: what every other backend is held against."""

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []

    def alike(self, lesson: Lesson) -> object:
        return lesson

    def enter(self, lesson: Lesson, scope: Scope) -> Entrance:
        return Whole(lesson.run)

    def get_ready(self, lesson: Lesson, scope: Scope) -> None:
        """Nothing to do."""

    def engine(self, lessons: Sequence[Lesson], scopes: Sequence[Scope]) -> Alone:
        (lesson,), (scope,) = lessons, scopes
        return Alone(lesson, scope, open_optimizer(lesson, scope))

    def leave(self, lesson: Lesson) -> None:
        """Nothing was kept."""

    def evaluate(self, runs: Sequence[Run], moment: int | None) -> None:
        for run in runs:
            with run.drawing():
                evaluate_alone(run, moment)

    def reuse(self, run: Run, task: Task) -> float:
        return 1.0

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
