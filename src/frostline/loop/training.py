"""The loop: tasks, their parts, stretches, steps; what is chosen, trained, remembered, evaluated and saved, in that order.

Several runs that differ in their seed are learned together (trainer.seeds): each does all of this for itself, but for the
steps of a stretch in which they train the same parts and for evaluations, which their backend may do in one pass.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack

from frostline.core.checks import UsageError
from frostline.core.scope import Scope
from frostline.core.structure import shares_of_blocks
from frostline.costs import all_paused
from frostline.loop import harness
from frostline.loop.answering import answer
from frostline.loop.backend import Engine, Marching
from frostline.loop.evaluation import evaluate_within, record_nothing
from frostline.loop.interrupts import STOP, Ended
from frostline.loop.lesson import Lesson, blocks
from frostline.loop.optimizing import close_optimizer, rates_change
from frostline.loop.plain import Alone
from frostline.loop.pricing import StepCounter, count_plain
from frostline.loop.probing import look_at_outputs
from frostline.loop.run import Run, take_checkpoints
from frostline.loop.stepping import take_step
from frostline.loop.watching import Lookout, lookout


def run_stream(*runs: Run) -> None:
    """Learn every task from where the runs stand to the end of their streams."""
    if runs and all(run.finished for run in runs):
        raise UsageError("This run is complete: every task of its stream is learned. Expected a new run.")
    for run in runs:
        for observer in run.observers:
            observer.started(run)
    fresh = [run for run in runs if not run.progress.accuracy]
    for run in fresh:
        _prepare(run, 0)
    if fresh:
        fresh[0].backend.evaluate(fresh, None)
        _look_at_outputs(fresh, None)
    if fresh:
        _save(fresh)  # from here on a kill leaves something to go on with
    while behind := [run for run in runs if not run.finished]:
        first = min(run.progress.task for run in behind)
        learn_task([run for run in behind if run.progress.task == first], first)


def learn_task(runs: Sequence[Run], index: int) -> None:
    """Learn a task, or wait for a later one, and evaluate."""
    for run in runs:
        _prepare(run, index)
    tasks = [run.strategy.task(run.stream, index) for run in runs]
    lessons = {id(run): run.strategy.parts(task) for run, task in zip(runs, tasks, strict=True) if task is not None}
    learning = [run for run in runs if id(run) in lessons]
    while unfinished := [run for run in learning if run.progress.part < len(lessons[id(run)])]:
        part = min(run.progress.part for run in unfinished)
        learn([Lesson(run, lessons[id(run)][part]) for run in unfinished if run.progress.part == part])
    for run in learning:
        with run.drawing():
            Lesson(run, lessons[id(run)][-1]).consolidate()
    if learning:
        learning[0].backend.evaluate(learning, index)
        _look_at_outputs(learning, index)
    for run in runs:
        if run not in learning:
            record_nothing(run)
        with run.drawing():
            count_plain(run, index)
            run.progress.retrained.append(shares_of_blocks(run.model, run.progress.trained))
            run.progress.begin_part(index + 1)
            for observer in run.observers:
                observer.task_done(run, index)
    _save(runs, last=index == len(runs[0].stream) - 1)


def learn(lessons: Sequence[Lesson]) -> None:
    """Choose what thaws and train it stretch by stretch.

    A stretch is what a selector leaves unchanged: the whole task for most, some steps for those that change their mind. It
    also ends where there is something to evaluate within a task; then nothing changes but that.
    """
    for lesson in lessons:
        with lesson.run.drawing():
            lesson.select()
    while unfinished := [lesson for lesson in lessons if not lesson.closed]:
        first = min(lesson.run.progress.step for lesson in unfinished)
        kinds: dict[object, list[Lesson]] = {}
        for lesson in unfinished:
            if lesson.run.progress.step == first:
                kinds.setdefault(lesson.run.backend.alike(lesson), []).append(lesson)
        for alike in kinds.values():
            _train_stretch(alike)
            for lesson in alike:
                if _due(lesson):
                    with lesson.run.drawing():
                        evaluate_within(lesson.run, lesson.run.progress.task)
                        look_at_outputs(lesson.run, lesson.run.progress.task)
    for lesson in lessons:
        with lesson.run.drawing():
            lesson.end_part()


def _train_stretch(lessons: Sequence[Lesson]) -> None:
    backend = lessons[0].run.backend
    with ExitStack() as stack:
        scopes = [stack.enter_context(lesson.scope().thawed()) for lesson in lessons]
        for lesson, scope in zip(lessons, scopes, strict=True):
            with lesson.run.drawing():
                lesson.entrance = lesson.run.backend.enter(lesson, scope)
            stack.enter_context(lesson.run.strategy.watching(lesson.run.model))
            _thaw(lesson, scope)
        if len(lessons) == 1:
            backend.get_ready(lessons[0], scopes[0])
        with ExitStack() as phases:
            for lesson in lessons:
                phases.enter_context(lesson.run.meter.phase("train", lesson.task.index, among=len(lessons)))
            with ExitStack() as draws:
                if len(lessons) == 1:
                    draws.enter_context(lessons[0].run.drawing())
                engine = backend.engine(lessons, scopes)
                with STOP.stepping():
                    fit(lessons, scopes, engine)
            for lesson in lessons:
                lesson.run.meter.row.stored_bytes = lesson.stored_bytes()
                lesson.closed = lesson.done


def _thaw(lesson: Lesson, scope: Scope) -> None:
    """Tell the strategy what is about to train, and note it."""
    run = lesson.run
    run.progress.trained = sorted({*run.progress.trained, *scope.names})
    with run.meter.phase("train", lesson.task.index) as row, run.drawing():
        row.trainable_parameters = max(row.trainable_parameters, scope.size)
        if lesson.first:
            run.strategy.before_task(scope, lesson.task)
        lesson.first = False
        run.strategy.thawing(scope, lesson.task)


def fit(lessons: Sequence[Lesson], scopes: Sequence[Scope], engine: Engine) -> None:
    """Train the lessons' scopes, which have the same names, until a selector thaws another or the task ends."""
    runs, progress = [lesson.run for lesson in lessons], lessons[0].run.progress
    counters = [StepCounter(lesson, scope, Alone(lesson, scope)) for lesson, scope in zip(lessons, scopes, strict=True)]
    looks = [lookout(lesson) for lesson in lessons]
    varying = any(map(rates_change, lessons))
    for run in runs[1:]:  # equal models: counted once
        run.step_flops = runs[0].step_flops
    stride = engine.stride if isinstance(engine, Marching) and runs[0].rehearsal is None else 1
    for batches, several in blocks(lessons, engine.wants_samples, stride):
        for step in engine.steps:
            step.number = progress.step
        if varying:
            engine.set_rates()
        firsts = [batch.rows(slice(0, len(batch) // several)) for batch in batches] if several > 1 else batches
        if not all(counter.knows(batch) for counter, batch in zip(counters, firsts, strict=True)):
            _price(counters, firsts, engine)
        flops = [  # before the step: it may add work
            counter(batch, several) for counter, batch in zip(counters, firsts, strict=True)
        ]
        now = slice(progress.step, progress.step + several)
        if several > 1 and isinstance(engine, Marching):
            engine.losses[now], samples = engine.march(batches, several), [len(batch) for batch in batches]
        elif (rehearsal := runs[0].rehearsal) is None:
            engine.losses[now], samples = take_step(engine, batches)
        else:
            samples = [counter.known_for(batch)[1] for counter, batch in zip(counters, batches, strict=True)]
            with rehearsal.piece(counters[0].key(batches[0]), runs[0].meter) as wanted:
                if wanted:
                    engine.losses[now], samples = take_step(engine, batches)
        for run, count, cost in zip(runs, samples, flops, strict=True):
            run.meter.step(count, several * cost, several)
            run.progress.step += several
        if progress.step == lessons[0].change.until and not lessons[0].done and _ask_again(lessons, scopes, engine):
            break
        if _due(lessons[0]):
            break
        if STOP.asked or time.monotonic() >= looks[0].next:
            _look(runs, looks, engine)
    engine.close()
    if lessons[0].done:  # so that a short task is in the learning curve too
        _look(runs, looks, engine)
    for lesson, scope, look in zip(lessons, scopes, looks, strict=True):
        look.check()
        lesson.add_up()
        close_optimizer(lesson, scope)


def _due(lesson: Lesson) -> bool:
    """Tell whether to evaluate now, in the middle of a task; where it ends it is evaluated anyway."""
    every, step = lesson.run.settings.evaluate_every, lesson.run.progress.step
    return every is not None and step % every == 0 and not lesson.done


def _price(counters: Sequence[StepCounter], batches: Sequence, engine: Engine) -> None:
    """Let every counter know the batch's operations, off everybody's bill."""
    runs = [counter.run for counter in counters]
    with all_paused([run.meter for run in runs]):
        for counter, batch, step in zip(counters, batches, engine.steps, strict=True):
            probe = counter.engine.steps[0]
            probe.number, probe.rate = step.number, step.rate
            with counter.run.drawing():
                counter.learn(engine.complete(batch))
            first = runs[0].progress.references  # equal models: timed once
            for shape, reference in first.items():
                counter.run.progress.references.setdefault(shape, reference)


def _ask_again(lessons: Sequence[Lesson], scopes: Sequence[Scope], engine: Engine) -> bool:
    """Let the selectors choose again in the middle of the task; tell whether another part is to train now."""
    for lesson in lessons:
        lesson.run.progress.change = lesson.next_change()
    kinds = {lesson.run.backend.alike(lesson) for lesson in lessons}
    if len(kinds) > 1 or lessons[0].change.names != scopes[0].names:
        return True
    engine.set_rates()
    return False


def _look(runs: Sequence[Run], looks: Sequence[Lookout], engine: Engine) -> None:
    engine.settle()
    with all_paused([run.meter for run in runs]):
        for place, (run, look) in enumerate(zip(runs, looks, strict=True)):
            with run.drawing():
                look(engine.gradients(place))
            look.lesson.add_up()
        first = runs[0]
        if STOP.asked or time.monotonic() - first.saved_at >= first.settings.checkpoint_every_s:
            take_checkpoints(runs)
    if STOP.asked:
        raise Ended(STOP.asked)


def _look_at_outputs(runs: Sequence[Run], moment: int | None) -> None:
    for run in runs:
        with run.drawing():
            look_at_outputs(run, moment)
            answer(run, moment)
            harness.ask(run, moment)


def _prepare(run: Run, index: int) -> None:
    """Let the strategy give the model what the task needs, once."""
    if run.progress.prepared <= index:
        with run.drawing():
            run.strategy.prepare(run.model, index)
        run.progress.prepared = index + 1


def _pause(run: Run) -> float:
    return min(run.settings.checkpoint_every_s, max(1.0, 50 * run.saving_took))


def _save(runs: Sequence[Run], last: bool = True) -> None:
    """Take checkpoints; between short tasks not each time: what they hold grows with them, and a second is soon done again."""
    if last or time.monotonic() - runs[0].saved_at >= _pause(runs[0]):
        take_checkpoints(runs)
