"""A run's model as the harness asks it: what a text's next words are worth, and what it goes on with."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from tqdm import tqdm

from frostline.core.types import Batch
from frostline.loop.answering import go_on
from frostline.loop.evaluation import Work, operations
from frostline.loop.run import Run

STEP = 32  # lengths are multiples of it, so that few shapes are counted
MOST_GENERATED = 256  # tokens, where a task does not say; the harness's own


class HarnessModel(TemplateLM):
    """The model of a run, on whose bill every question is. Call it without gradients, in eval mode."""

    def __init__(self, run: Run):
        super().__init__()
        assert run.stream.tokens is not None
        self.run, self.tokens, self.length = run, run.stream.tokens, run.stream.shape[0]
        self._device = run.device

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text, and stands before one."""
        return self.tokens.end

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return a text's tokens and none besides."""
        return self.tokens.documents([string])[0][:-1].tolist()

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Return for each text and what follows it the log-probability of that, and whether it is what is likeliest."""
        texts = [(before + after)[-self.length - 1 :] for _, before, after in requests]
        counts = [min(len(after), len(text) - 1) for (_, _, after), text in zip(requests, texts, strict=True)]
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        found: list[tuple[float, bool]] = [(0.0, False)] * len(texts)
        size = self.run.eval_batch_size
        bar = tqdm(range(0, len(order), size), desc="harness", leave=False, delay=2, disable=disable_tqdm)
        for part in (order[start : start + size] for start in bar):
            width = min(-(-(len(texts[part[0]]) - 1) // STEP) * STEP, self.length)
            x = torch.full((len(part), width), self.tokens.end)
            for row, i in zip(x, part, strict=True):
                row[: len(texts[i]) - 1] = torch.tensor(texts[i][:-1])
            logits = self._logits(x.to(self.run.device))
            if logits is None:
                continue
            for row, i in zip(logits, part, strict=True):
                stop = len(texts[i]) - 1
                said = row[stop - counts[i] : stop].float()
                wanted = torch.tensor(texts[i][len(texts[i]) - counts[i] :], device=said.device)
                value = said.log_softmax(-1).gather(1, wanted[:, None]).sum()
                found[i] = (float(value), bool((said.argmax(-1) == wanted).all()))
        return found

    def _logits(self, x: Tensor) -> Tensor | None:
        """Return logits [B, L, V], on the bill; None where a rehearsal has seen enough of the kind."""
        run, batch = self.run, Batch(x, x, x[:, 0], x[:, 0])
        work = Work(batch, partial(run.model, x), kind="harness")
        run.meter.step(len(x), operations(run, work, [run]))
        if run.rehearsal is None:
            return work.call()
        with run.rehearsal.piece(("harness", tuple(x.shape)), run.meter) as wanted:
            if wanted:
                work.call()
        return None

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of whole texts, each token once, with as much before it as fits."""
        windows, owners = [], []
        for owner, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self.length, 1):
                before, after = make_disjoint_window(window)
                windows.append((None, before, after))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            totals[owner] += value
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what the likeliest tokens say after each text, up to the first of the task's own ends."""
        return [
            self._go_on(*request.args)
            for request in tqdm(requests, desc="harness", leave=False, delay=2, disable=disable_tqdm)
        ]

    def _go_on(self, text: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        until = [until] if isinstance(until, str) else until
        writing = self.tokens.writing()
        most = min(int(settings.get("max_gen_toks", MOST_GENERATED)), self.length - 1)
        prompt = torch.tensor(self.tok_encode(text)[-(self.length - most) :] or [self.tokens.end])
        ends = [*writing.ends, *(tuple(self.tok_encode(end)) for end in until if end)]
        said = go_on(self.run, prompt, ends, most, most) or []
        found = writing.decode([i for i in said if (i,) not in writing.ends])
        for end in until:
            found = found.split(end)[0] if end else found
        return found
