"""The fast way: everything of this room together, behind the questions that the loop asks of a backend."""

from collections.abc import Sequence
from typing import Any

from frostline.core.scope import Scope
from frostline.core.types import Task
from frostline.loop.backend import Engine, Entrance
from frostline.loop.evaluation import evaluate_alone
from frostline.loop.lesson import Lesson
from frostline.loop.optimizing import open_optimizer
from frostline.loop.plain import Alone
from frostline.loop.run import Run
from frostline.loop.settings import TrainerConfig
from frostline.speed.compiling import Compiler
from frostline.speed.evaluation import evaluate_together, one_pass_serves
from frostline.speed.features import Features
from frostline.speed.prefix import Prefix
from frostline.speed.stacking import pays
from frostline.speed.together import Together


class Fast:
    """One run's shortcuts: a cache of the frozen prefix, features of test data, compiled steps, several seeds at once."""

    def __init__(self, settings: TrainerConfig):
        off = settings.prefix_cache == "off"
        self.features = Features(0 if off else int(settings.prefix_cache_gib * 2**30))
        self.prefix = Prefix()
        self.compiler = Compiler()

    @property
    def notes(self) -> list[dict[str, Any]]:
        return self.prefix.notes

    def alike(self, lesson: Lesson) -> object:
        """Return what trains, how fast, until when, in how many steps; a lesson that would gain nothing is alone."""
        run, change = lesson.run, lesson.change
        alone = run.settings.micro_batch_size is not None or run.settings.activation_checkpointing
        if alone or not pays(run.model, run.device) or run.strategy.uses("watching"):
            return lesson
        return (
            change.names,
            tuple(sorted(change.rates.items())),
            change.until,
            lesson.total,
            len(lesson.task.train),
            run.shape,
        )

    def enter(self, lesson: Lesson, scope: Scope) -> Entrance:
        meter, index = lesson.run.meter, lesson.task.index
        before = index - 1 if index else None
        if meter.find(before, "evaluate"):  # which it is a part of: a later one then knows what has not changed since
            with meter.phase("evaluate", before):
                self.features.note(lesson.run.model)
        return self.prefix.enter(lesson, scope)

    def get_ready(self, lesson: Lesson, scope: Scope) -> None:
        self.compiler.get_ready(lesson, scope)

    def engine(self, lessons: Sequence[Lesson], scopes: Sequence[Scope]) -> Engine:
        if len(lessons) > 1:
            return Together(lessons, scopes)
        return Alone(lessons[0], scopes[0], open_optimizer(lessons[0], scopes[0]), self.compiler.forward)

    def leave(self, lesson: Lesson) -> None:
        self.prefix.leave()
        self.compiler.forward = None

    def evaluate(self, runs: Sequence[Run], moment: int | None) -> None:
        features = [run.backend.features for run in runs if isinstance(run.backend, Fast)]
        for run, own in zip(runs, features, strict=True):
            with run.meter.phase("evaluate", moment):
                own.look(run.model, run.strategy.steady)
        if one_pass_serves(runs, moment) and not any(own.line for own in features):
            evaluate_together(runs, moment)
            return
        for run, own in zip(runs, features, strict=True):
            with run.drawing():
                own.pay(run, moment)
                evaluate_alone(run, moment, own.read)
                row = run.meter.find(moment, "evaluate")
                assert row is not None
                row.stored_bytes = own.nbytes

    def reuse(self, run: Run, task: Task) -> float:
        settings, remembered = run.settings, run.strategy.remembered()
        if settings.prefix_cache == "off" or remembered is None:
            return 1.0
        distinct = (len(task.train) + sum(map(len, remembered))) * max(1, settings.prefix_cache_views)
        return min(1.0, distinct / (len(task.train) * settings.epochs))

    def state_dict(self) -> dict[str, Any]:
        return {"prefix": self.prefix.state_dict(), "features": self.features.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.prefix.load_state_dict(state["prefix"])
        self.features.load_state_dict(state["features"])
