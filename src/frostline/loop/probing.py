"""Looks at what a run's net says on held-out data beside what it said at first, where trainer.output_drift asks for it."""

import torch
from torch import Tensor

from frostline.core.checks import UsageError
from frostline.core.objectives import PIECE, Classification
from frostline.core.output_drift import Reading, measure, say, typical
from frostline.core.rng import generator
from frostline.core.scope import evaluating
from frostline.core.types import Suite, TaskStream
from frostline.costs.flops import count_flops
from frostline.loop.evaluation import Column, Work, operations
from frostline.loop.run import Run

MOST = 2048  # places of a suite


def check(samples: int | None, stream: TaskStream) -> None:
    """Refuse to look at what there is not."""
    if samples is None:
        return
    if not stream.suites:
        raise UsageError(
            f"trainer.output_drift={samples} compares what is said on held-out data, and there are none. Expected beside it "
            "held_out=[STREAM], or stream.held_out=[DOMAIN] with stream=language."
        )
    if not all(isinstance(s.objective, Classification) for s in stream.suites):
        raise UsageError(
            "trainer.output_drift compares distributions over classes or words: not of a regression. Expected null."
        )
    if stream.groups is not None:
        stream.groups()  # refuses a pattern that is found nowhere


def look_at_outputs(run: Run, moment: int | None) -> None:
    """Add a row for each held-out suite, after task `moment`, in the middle of it, or before the first."""
    if run.settings.output_drift is None:
        return
    with run.meter.phase("evaluate", moment), evaluating(run.model), torch.no_grad(), run.casting():
        run.groups = run.groups or _groups(run.stream)
        for suite in run.stream.suites:
            with run.strategy.serving(run.model, None):
                _look_at(run, suite, moment)


def _look_at(run: Run, suite: Suite, moment: int | None) -> None:
    column = Column(suite.name, suite.source, suite.visible, suite.objective)
    readings = _readings(run, suite)
    for reading in readings:
        work = Work(reading.batch, lambda reading=reading: run.model(reading.batch.x))
        run.meter.step(len(reading.batch), operations(run, work, [run]))
    if run.rehearsal is not None:
        return
    now = say(run.model, readings, column.visible)
    before = run.progress.said.setdefault(suite.name, now)
    groups = run.groups or {} if now["says"].shape[-1] == run.stream.classes else {}
    found = {}
    run.meter.step(0, count_flops(lambda: found.update(measure(run.model, before, now, groups)), set()), 0)
    run.progress.output_drift.append({"task": moment, "steps": run.meter.spent()[0], "suite": suite.name, **found})


def _readings(run: Run, suite: Suite) -> list[Reading]:
    """Return the suite's samples that are looked at, always the same, and which of their places."""
    order = torch.randperm(len(suite.source), generator=generator("output drift", suite.name))
    order = order[: run.settings.output_drift]
    counted = suite.objective.counted(suite.source.labels[order])
    places = counted.nonzero()
    most = min(MOST, max(16, PIECE // run.stream.classes))
    kept = torch.zeros_like(counted)
    kept[tuple(places[:: -(-len(places) // most)].T)] = True
    size = run.eval_batch_size
    batches = suite.source.batches(size, order)
    return [Reading(batch, part.to(run.device)) for batch, part in zip(batches, kept.split(size), strict=True)]


def _groups(stream: TaskStream) -> dict[str, Tensor]:
    """Return the groups of words whose mass is measured: the stream's own, and of each task what it is about.

    That is its classes, where samples have one; of texts, the words that are four times as frequent in it as elsewhere.
    """
    given = stream.groups() if stream.groups is not None else {}
    found = {name: torch.tensor(words) for name, words in given.items()}
    for task in stream.tasks:
        if task.classes:
            found[task.name] = torch.tensor(task.classes)
        elif isinstance(task.objective, Classification):
            others = [t.train.labels for t in stream.tasks if t is not task] + [s.source.labels for s in stream.suites]
            here, there = _counted(task.train.labels), torch.cat([_counted(labels) for labels in others])
            found[task.name] = typical(here, there, stream.classes)
    return {name: words for name, words in found.items() if len(words)}


def _counted(labels: Tensor) -> Tensor:
    return labels[labels >= 0]
