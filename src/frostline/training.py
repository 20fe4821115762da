"""The loop: tasks, stretches, steps; what is chosen, trained, remembered, evaluated and saved, in that order.

Several runs that differ in their seed are learned together (trainer.seeds): each does all of this for itself, but for the
steps of a stretch in which they train the same parts and for evaluations, which are one pass for all of them.
"""

import time
from collections.abc import Hashable, Sequence
from contextlib import ExitStack

from frostline.compiling import compiled_forward
from frostline.evaluation import evaluate
from frostline.lesson import Lesson
from frostline.lookout import Lookout
from frostline.optimizing import close_optimizer, open_optimizer, set_rates
from frostline.run import Run
from frostline.scope import Scope
from frostline.stepping import Forward, StepCounter, step_kind, train_step
from frostline.together import fit_together


def run_stream(*runs: Run) -> None:
    """Learn every task from where the runs stand to the end of their streams."""
    for run in runs:
        for observer in run.observers:
            observer.started(run)
    fresh = [run for run in runs if not run.accuracy]
    for run, row in zip(fresh, evaluate(fresh, None), strict=True):
        with run.drawing():
            run.accuracy.append(row)
            if run.save is not None:  # from here on a kill leaves something to go on with
                run.save(run.state_dict())
    while behind := [run for run in runs if run.task < len(run.stream)]:
        first = min(run.task for run in behind)
        _learn_task([run for run in behind if run.task == first], first)


def _learn_task(runs: Sequence[Run], index: int) -> None:
    tasks = [run.strategy.task(run.stream, index) for run in runs]
    lessons = [Lesson(run, task) for run, task in zip(runs, tasks, strict=True) if task is not None]
    learn(lessons)
    rows = iter(evaluate([lesson.run for lesson in lessons], index))
    for run, task in zip(runs, tasks, strict=True):
        with run.drawing():
            run.accuracy.append([None] * len(run.stream) if task is None else next(rows))
            run.task, run.step, run.thawed, run.change = index + 1, 0, None, None
            for observer in run.observers:
                observer.task_done(run, index)
            if run.save is not None:
                run.save(run.state_dict())


def learn(lessons: Sequence[Lesson]) -> None:
    """Choose what thaws, train it stretch by stretch, let the strategies remember.

    A stretch is what a selector leaves unchanged: the whole task for most, some steps for those that change their mind.
    """
    for lesson in lessons:
        with lesson.run.drawing():
            lesson.select()
    while unfinished := [lesson for lesson in lessons if not lesson.closed]:
        first = min(lesson.run.step for lesson in unfinished)
        kinds: dict[object, list[Lesson]] = {}
        for lesson in unfinished:
            if lesson.run.step == first:
                kinds.setdefault(lesson.kind(), []).append(lesson)
        for alike in kinds.values():
            _train_stretch(alike)
    for lesson in lessons:
        with lesson.run.drawing():
            lesson.consolidate()


def _train_stretch(lessons: Sequence[Lesson]) -> None:
    with ExitStack() as stack:
        scopes = [stack.enter_context(lesson.scope().thawed()) for lesson in lessons]
        for lesson, scope in zip(lessons, scopes, strict=True):
            with lesson.run.drawing():
                lesson.prefix.open(scope, lesson.epochs_left)
            with lesson.run.meter.phase("train", lesson.task.index) as row, lesson.run.drawing():
                row.trainable_parameters = max(row.trainable_parameters, scope.size)
                if lesson.fresh:
                    lesson.run.strategy.before_task(scope, lesson.task)
                lesson.fresh = False
        compiled = compiled_forward(lessons[0], scopes[0]) if len(lessons) == 1 else None
        with ExitStack() as phases:
            for lesson in lessons:
                phases.enter_context(lesson.run.meter.phase("train", lesson.task.index, among=len(lessons)))
            if len(lessons) == 1:
                with lessons[0].run.drawing():
                    fit(lessons[0], scopes[0], compiled)
            else:
                fit_together(lessons, scopes)
            for lesson in lessons:
                lesson.run.meter.row.stored_bytes = lesson.stored_bytes()
                lesson.closed = lesson.done


def fit(lesson: Lesson, scope: Scope, compiled: tuple[Hashable, Forward] | None = None) -> None:
    """Train the scope until the selector thaws another or the task ends; `compiled` steps are those of one kind."""
    run, task, prefix, losses = lesson.run, lesson.task, lesson.prefix, lesson.losses
    assert run.change is not None
    optimizer = open_optimizer(run, scope)
    cost = StepCounter(run, scope, task, prefix.logits, prefix.line)
    observe = run.selector.observe if run.selector.observes else None
    look = Lookout(run, task, losses, lesson.steps)
    for batch in lesson.batches(samples=not prefix.line or run.strategy.reads_samples()):
        flops, forward = cost(batch), prefix.logits
        if compiled is not None and step_kind(run, batch) == compiled[0]:
            forward = compiled[1]
        losses[run.step], samples = train_step(run.strategy, scope, task, optimizer, batch, forward, observe)
        run.meter.step(samples, flops)
        run.step += 1
        if run.step == run.change.until and not lesson.done:
            run.change = lesson.next_change()
            if run.change.names != scope.names:
                break
            set_rates(optimizer, scope.parameters, run.change.rates)
        if time.monotonic() >= look.next:
            look()
    prefix.check()
    look.check()
    close_optimizer(run, scope, frozenset() if lesson.done else run.change.names)
