"""Answers to test prompts by greedy generation, beside those wanted, where trainer.answers asks for them."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from frostline.core.checks import UsageError
from frostline.core.rng import generator
from frostline.core.scope import evaluating
from frostline.core.types import Batch, Source, Task, TaskStream, Writing
from frostline.loop.evaluation import Work, evaluation_data, operations
from frostline.loop.run import Run
from frostline.models.generating import generate


class Asked(NamedTuple):
    """A prompt [L], the answer wanted, and how many tokens an answer may have."""

    prompt: Tensor
    wanted: list[int]
    most: int


def check(prompts: int | None, stream: TaskStream) -> None:
    """Refuse streams without prompts and answers."""
    if prompts is not None and stream.writing is None:
        raise UsageError(
            f"trainer.answers={prompts}: {stream.name} has no prompts with answers. Expected stream=instructions, or null."
        )


def answer(run: Run, moment: int | None) -> None:
    """Answer prompts of the tasks so far, of all before the first, and of the suites; add a row for each answer."""
    if run.settings.answers is None or run.stream.writing is None:
        return
    tasks = run.stream.tasks[: len(run.stream) if moment is None else moment + 1]
    sources = [(t.name, evaluation_data(t, run.settings.evaluate_on), t) for t in tasks]
    with run.meter.phase("evaluate", moment), evaluating(run.model), torch.no_grad(), run.casting():
        for name, source, task in [*sources, *((s.name, s.source, None) for s in run.stream.suites)]:
            with run.strategy.serving(run.model, task):
                run.progress.answers += _answers(run, name, source, task, moment)


def _answers(run: Run, name: str, source: Source, task: Task | None, moment: int | None) -> list[dict[str, Any]]:
    writing, found = run.stream.writing, []
    assert writing is not None
    for asked in prompts(source, run.settings.answers or 0, writing, name):
        said = go_on(run, asked.prompt, writing.ends, asked.most, len(asked.wanted))
        if said is not None:
            found.append({"after": moment, "of": name, **compared(asked, said, writing)})
    return found


def go_on(run: Run, prompt: Tensor, ends: Sequence[Sequence[int]], most: int, supposed: int) -> list[int] | None:
    """Return what the run's model says after a prompt [L], on the bill; None in a rehearsal, which supposes so many tokens."""
    said = None
    call = partial(generate, run.model, prompt.to(run.device), ends, most)
    if run.rehearsal is None:
        said = call()
    else:
        with run.rehearsal.piece("answer", run.meter) as wanted:
            if wanted:
                call()
    length = min(len(prompt) + (supposed if said is None else len(said)), run.stream.shape[0])
    x = torch.zeros(
        1, length, dtype=torch.int64, device=run.device
    )  # with a cache every token goes through the model once
    run.meter.step(1, operations(run, Work(Batch(x, x, x[:, 0], x[:, 0]), partial(run.model, x), kind="answer"), [run]))
    return said


def compared(asked: Asked, said: list[int], writing: Writing) -> dict[str, Any]:
    """Return an answer beside the one wanted, as texts, with its scores; one that was cut short is not exact."""
    ended = _before(said, writing.ends)
    wanted = writing.decode(_before(asked.wanted, writing.ends) or []).strip()
    text = writing.decode(said if ended is None else ended).strip()
    scores = {"exact": ended is not None and text == wanted, "rouge_l": rouge_l(wanted, text)}
    return {**scores, "prompt": writing.decode(asked.prompt.tolist()), "wanted": wanted, "said": text}


def prompts(source: Source, count: int, writing: Writing, name: str) -> list[Asked]:
    """Return up to `count` prompts, always the same: all before a sample's last answer. An answer that was cut is left out."""
    order, found = torch.randperm(len(source), generator=generator("answers", name)), []
    for batch in source.batches(64, order):
        for x, y in zip(batch.x.cpu(), batch.y.cpu(), strict=True):
            counted = y >= 0
            last = int(counted.nonzero()[-1])
            gaps = (~counted[:last]).nonzero()
            first = int(gaps[-1]) + 1 if len(gaps) else 0
            wanted = y[first : last + 1].tolist()
            if _before(wanted, writing.ends) is not None:
                room = len(x) - first - 1
                found.append(Asked(x[: first + 1], wanted, max(1, min(room, 2 * len(wanted) + 8))))
            if len(found) == count:
                return found
    if not found:
        raise UsageError(
            f"trainer.answers: no answer of {name} ends within stream.length with a token that is known to end one. "
            "Expected a longer stream.length, or null."
        )
    return found


def rouge_l(wanted: str, said: str) -> float:
    """Return ROUGE-L's F: the longest common subsequence of words (Lin 2004), by torchmetrics."""
    from frostline.core.torchvision_schemas import torchvision

    torchvision()  # torchmetrics imports it
    try:
        from torchmetrics.functional.text.rouge import rouge_score
    except ImportError as error:
        raise UsageError("trainer.answers needs torchmetrics for ROUGE: pip install 'frostline[text]'.") from error
    return float(rouge_score([said], [wanted], rouge_keys=("rougeL",))["rougeL_fmeasure"])


def _before(ids: list[int], ends: Any) -> list[int] | None:
    """Return the tokens before the first end; None where there is no end."""
    places = [i for i in range(len(ids)) for end in ends if ids[i : i + len(end)] == list(end)]
    return ids[: min(places)] if places else None
