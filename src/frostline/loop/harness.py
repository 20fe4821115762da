"""EleutherAI's lm-evaluation-harness: its tasks are held-out suites, asked in words, where trainer.harness names some."""

import logging
import math
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from frostline.core.checks import UsageError, nearest
from frostline.core.scope import evaluating
from frostline.core.types import TaskStream
from frostline.loop.run import Run
from frostline.loop.settings import TrainerConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCURACIES = ("acc", "exact_match", "em", "f1", "pass@1")  # the first that a task has stands in the matrix
FEWSHOT_SEED = 1234  # the harness's own


def check(settings: TrainerConfig, stream: TaskStream) -> None:
    """Refuse unknown tasks, streams without text, and the options without tasks; read the tasks' data."""
    if not settings.harness:
        for name in ("harness_limit", "harness_shots", "harness_path"):
            if getattr(settings, name) is not None:
                raise UsageError(
                    f"trainer.{name} is for the harness's tasks. Expected trainer.harness=[TASK, ...] beside it."
                )
        return
    if stream.tokens is None:
        raise UsageError(
            f"trainer.harness={list(settings.harness)}: its tasks are texts to go on with, and {stream.name} does not predict "
            "tokens of text. Expected stream=language or stream=instructions, or null."
        )
    taken = {suite.name for suite in stream.suites} & set(settings.harness)
    if taken:
        raise UsageError(
            f"trainer.harness: {min(taken)!r} is held-out data of the stream already. Expected another name."
        )
    tasks = _loaded(tuple(settings.harness), settings.harness_path, settings.harness_shots)
    for name, task in ((name, task) for loaded in tasks.values() for name, task in loaded["tasks"].items()):
        if getattr(task, "UNSAFE_CODE", False) or task.get_config("unsafe_code"):
            raise UsageError(
                f"trainer.harness: {name!r} runs code that a model wrote, which is not done here. Expected another."
            )
        if (task.get_config("generation_kwargs") or {}).get("do_sample"):
            raise UsageError(
                f"trainer.harness: {name!r} asks for drawn answers; here they are the likeliest. Expected another."
            )


def ask(run: Run, moment: int | None) -> None:
    """Put the harness's tasks to the run's model after task `moment`, or before the first; add their scores."""
    settings = run.settings
    if not settings.harness:
        return
    from lm_eval.evaluator import evaluate

    from frostline.loop.harness_model import HarnessModel

    tasks = _loaded(tuple(settings.harness), settings.harness_path, settings.harness_shots)
    with (
        run.meter.phase("evaluate", moment),
        evaluating(run.model),
        torch.no_grad(),
        run.casting(),
        run.strategy.serving(run.model, None),
        _quiet(),
    ):
        for name, loaded in tasks.items():
            for task in loaded["tasks"].values():
                task.set_fewshot_seed(seed=FEWSHOT_SEED)  # the same examples at each moment, and after a kill
            try:
                found = evaluate(
                    HarnessModel(run), loaded, limit=settings.harness_limit, bootstrap_iters=0, log_samples=False
                )
            except OverflowError:  # a perplexity beyond what a float holds: no reason to lose a run
                found = {"results": {name: {}}}
            scores: dict[str, Any] = dict((found or {}).get("results") or {})
            if run.rehearsal is None:
                for each in [name] if name in scores else scores:  # a tag has no score of its own
                    _record(run, moment, each, scores[each])


def _record(run: Run, moment: int | None, name: str, scores: dict[str, Any]) -> None:
    """Add a task's scores, and its accuracy to the row of the held-out suites."""
    values = {
        key.removesuffix(",none"): v if math.isfinite(v) else None
        for key, v in scores.items()
        if isinstance(v, int | float) and "stderr" not in key and "," in key
    }
    run.progress.harness.append({"after": moment, "of": name, **values})
    key = next((k for known in ACCURACIES for k in values if k.split(",")[0] == known), None)
    if key is not None:
        column = run.progress.held_out.setdefault(name, {"accuracy": [], "loss": []})
        for kind, value in (("accuracy", values[key]), ("loss", None)):
            waited = len(run.progress.accuracy) - 1 - len(column[kind])  # tasks without data
            column[kind] += [*[None] * waited, value]


@cache
def _loaded(names: tuple[str, ...], path: str | None, shots: int | None) -> dict[str, Any]:
    """Return the harness's tasks with their data, by the name that was asked for."""
    from frostline.core.torchvision_schemas import torchvision

    torchvision()  # the harness imports it
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UsageError(
            "trainer.harness needs EleutherAI's lm-evaluation-harness: pip install 'frostline[harness]'."
        ) from error
    if path is not None and not Path(path).expanduser().is_dir():
        raise UsageError(f"trainer.harness_path={path!r}: expected a folder with the harness's task files, *.yaml.")
    with _quiet():
        manager = TaskManager(include_path=None if path is None else str(Path(path).expanduser()))
        for name in names:
            if name not in manager.all_tasks:
                raise UsageError(
                    f"trainer.harness: the harness has no task {name!r}.{nearest(name, manager.all_tasks)} Expected one that "
                    "`lm-eval ls tasks` prints, or one of your own in trainer.harness_path."
                )
        try:
            tasks = {name: manager.load([name]) for name in names}
        except Exception as error:  # of data sets' hubs, files and scripts, whatever they raise
            raise UsageError(
                f"trainer.harness={list(names)}: the data cannot be read ({type(error).__name__}: {str(error)[:300]})."
            ) from error
        for task in (task for loaded in tasks.values() for task in loaded["tasks"].values()):
            if shots is not None or task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=shots or 0)
    return tasks


@contextmanager
def _quiet() -> "Iterator[None]":
    """Keep the harness from saying all that it does; bars are for what takes long."""
    from datasets.utils import logging as of_datasets
    from lm_eval.api import model, task

    before, bars = logging.root.manager.disable, task.tqdm
    logging.disable(logging.WARNING)
    task.tqdm = model.tqdm = partial(bars, leave=False, delay=2)
    told = of_datasets.is_progress_bar_enabled()
    of_datasets.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(before)
        task.tqdm = model.tqdm = bars
        if told:
            of_datasets.enable_progress_bar()
